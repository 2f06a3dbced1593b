"""Who scores an image of a site: a value, worked out without any network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from tiny_bundle import write_tiny_bundle

from inference.roster import Lineup
from inference.scoring import Model
from models.bundle import Bundle, load_bundle


class Idle:
    """An engine that nobody runs here."""

    name, head = "openvino", None

    def predict(self, batch: object) -> object:
        raise AssertionError(batch)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return [load_bundle(write_tiny_bundle(folder / str(seed), seed=seed)) for seed in (1, 2)]


@pytest.fixture
def one(bundles: list[Bundle]) -> Model:
    return Model(bundles[0], Idle())  # type: ignore[arg-type]


@pytest.fixture
def two(bundles: list[Bundle]) -> Model:
    return Model(bundles[1], Idle())  # type: ignore[arg-type]


def fitted(model: Model, threshold: float) -> Model:
    """The same network with thresholds of a site."""
    return model._replace(bundle=model.bundle.refitted({"operating_points": {"balanced": [threshold] * 3}}))


def test_a_site_has_its_own_model_or_that_of_all_sites(one: Model, two: Model) -> None:
    lineup = Lineup({"": one, "A": two})
    assert lineup.model_of("A") is two
    assert lineup.model_of("") is lineup.model_of("B") is one
    assert lineup.usable


def test_a_site_whose_model_cannot_be_had_does_not_take_that_of_others(one: Model) -> None:
    lineup = Lineup({"": one, "A": None}, problems=("gone",))
    assert lineup.model_of("A") is None
    assert lineup.usable
    assert not Lineup({"": None, "A": None}).usable
    assert not Lineup().usable


def test_shadows_are_those_of_all_sites_and_of_the_site_but_never_the_active_one(one: Model, two: Model) -> None:
    here = fitted(two, 0.9)
    lineup = Lineup({"": one, "A": two}, {"": (two, one), "B": (here,)})
    assert lineup.shadows_of("") == (two,)
    assert lineup.shadows_of("A") == (one,)
    assert lineup.shadows_of("B") == (here,)  # with the thresholds of the site
    assert Lineup({"A": None}, {"A": (one,)}).shadows_of("A") == (one,)


def test_a_model_has_the_thresholds_of_the_site_wherever_it_is_at_work(one: Model, two: Model) -> None:
    here = fitted(one, 0.7)
    lineup = Lineup({"": one, "A": here})
    assert lineup.at_site(one, "A") is here
    assert lineup.at_site(here, "B") is one
    assert lineup.at_site(two, "A") is two
    assert lineup.everyone() == [one, here]
