"""The distance from known films: what it measures, what it refuses to be fitted on or read from."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from tiny_bundle import write_tiny_bundle

from models.bundle import Bundle, load_bundle
from models.outlier import OUTLIER, Outlier, features_of, load_outlier
from models.phantom import chest
from storage.errors import InvalidBundle, InvalidInput

Floats = npt.NDArray[np.float64]


def films(count: int, seed: int, c: int = 12) -> Floats:
    """Features that vary together, and in very different measures."""
    mix = (np.eye(c) + 0.1 * np.random.default_rng(0).normal(size=(c, c))) * np.geomspace(0.01, 10, c)
    return np.random.default_rng(seed).normal(size=(count, c)) @ mix + 3


@pytest.fixture(scope="module")
def fitted() -> Outlier:
    return Outlier.fit(films(800, 1), films(300, 2))


def test_validation_films_are_spread_evenly_over_the_percentiles(fitted: Outlier) -> None:
    scores = np.sort(fitted.score(films(300, 2)))
    assert np.abs(scores - np.linspace(0, 100, 300)).max() < 1
    assert fitted.score(films(2000, 3)).mean() == pytest.approx(50, abs=4)


def test_the_distance_is_in_deviations_along_each_direction_and_not_in_lengths(fitted: Outlier) -> None:
    values, vectors = np.linalg.eigh(np.cov(films(5000, 4).T))
    narrow, wide = vectors[:, 0] * 8 * np.sqrt(values[0]), vectors[:, -1] * 1.0 * np.sqrt(values[-1])
    assert np.linalg.norm(narrow) < np.linalg.norm(wide)
    assert fitted.score((fitted.mean + narrow)[np.newaxis])[0] > 100
    assert fitted.score((fitted.mean + wide)[np.newaxis])[0] < 5


def test_beyond_all_known_films_the_score_goes_on_in_proportion(fitted: Outlier) -> None:
    away = films(1, 9)[0] - fitted.mean
    unit = away / np.sqrt(away @ fitted.precision @ away) * fitted.distances[-1]
    twice = np.stack([fitted.mean + unit * step for step in (0, 0.999999, 1.5, 2, 30)])
    assert fitted.score(twice) == pytest.approx([0, 100, 150, 200, 3000], rel=1e-3, abs=0.01)


def test_few_films_for_many_features_give_a_usable_distance() -> None:
    fitted = Outlier.fit(films(60, 1, c=100), films(60, 2, c=100))
    assert np.isfinite(fitted.precision).all()
    assert fitted.score(films(400, 3, c=100)).mean() == pytest.approx(50, abs=10)


def test_the_shrinkage_is_that_of_scikit_learn() -> None:
    covariance = pytest.importorskip("sklearn.covariance")
    given = films(60, 5)
    spread = given.std(axis=0)
    ours = np.linalg.inv(Outlier.fit(given, given).precision * np.outer(spread, spread))
    theirs = covariance.ledoit_wolf((given - given.mean(axis=0)) / spread)[0]
    assert np.abs(ours - theirs).max() < 1e-3


@pytest.mark.parametrize("which", ["train", "val"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_not_fitted_on(which: str, bad: float) -> None:
    given = {"train": films(50, 1), "val": films(50, 2)}
    given[which][7, 3] = bad
    with pytest.raises(InvalidInput, match="not all numbers"):
        Outlier.fit(**given)


def test_a_feature_that_never_moved_does_not_decide_alone() -> None:
    train, val = films(300, 1), films(300, 2)
    train[:, 4] = val[:, 4] = 3
    fitted, moved = Outlier.fit(train, val), val.copy()
    moved[:, 4] += 1e-6
    assert np.abs(fitted.score(moved) - fitted.score(val)).max() < 1


def test_too_few_films_are_refused() -> None:
    with pytest.raises(InvalidInput, match="5 validation films are too few"):
        Outlier.fit(films(50, 1), films(5, 2))


def test_an_image_whose_features_are_no_numbers_gets_none(fitted: Outlier) -> None:
    given = films(2, 3)
    given[1, 0] = np.nan
    assert np.isnan(fitted.score(given)).tolist() == [False, True]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    pytest.importorskip("torch")
    return load_bundle(write_tiny_bundle(tmp_path))


def test_what_is_saved_is_read_again(bundle: Bundle, fitted: Outlier) -> None:
    assert load_outlier(bundle) is None
    fitted.save(bundle.path, bundle.weights_sha256)
    read = load_outlier(bundle)
    assert read is not None
    assert np.array_equal(read.score(films(20, 7)), fitted.score(films(20, 7)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mean": np.full(12, np.nan, np.float32)}, "not finite"),
        ({"precision": np.full((12, 12), np.inf, np.float32)}, "not finite"),
        ({"mean": np.zeros(11, np.float32)}, "fit each other"),
        ({"distances": np.zeros(5, np.float32)}, "fit each other"),
        ({"distances": np.linspace(5, 1, 101, dtype=np.float32)}, "do not rise"),
        ({"distances": np.zeros(101, np.float32)}, "do not rise"),
    ],
)
def test_a_file_that_holds_no_distance_is_refused(
    change: dict[str, npt.NDArray[np.float32]], reason: str, bundle: Bundle, fitted: Outlier
) -> None:
    dataclasses.replace(fitted, **change).save(bundle.path, bundle.weights_sha256)
    with pytest.raises(InvalidBundle, match=reason):
        load_outlier(bundle)


def test_a_file_of_other_weights_is_refused(bundle: Bundle, fitted: Outlier) -> None:
    fitted.save(bundle.path, "0" * 64)
    with pytest.raises(InvalidBundle, match="fitted for weights 0000"):
        load_outlier(bundle)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no zip at all"])
def test_a_damaged_file_is_refused(content: bytes, bundle: Bundle) -> None:
    (bundle.path / OUTLIER).write_bytes(content)
    with pytest.raises(InvalidBundle, match="does not hold an outlier score"):
        load_outlier(bundle)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_features_of_films_are_what_the_head_sees(bundle: Bundle) -> None:
    import torch

    given = [chest(seed, rows=128, columns=112) for seed in range(35)]  # more than one batch
    pooled = features_of(bundle, given)
    network = bundle.network()
    with torch.inference_mode():
        logits = network(torch.from_numpy(bundle.prepare(given[34])[np.newaxis]))
        again = network.class_layers.out(torch.from_numpy(pooled[34:]))
    assert pooled.shape == (35, network.class_layers.out.in_features)
    assert torch.allclose(logits, again, atol=1e-4)
