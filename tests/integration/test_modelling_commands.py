"""`sangloc train | compare | evaluate` from a manifest to a card with the table of steps, as a reader runs them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from tiny_models import NETWORK, write_manifest

from models import training
from models.recipe import RECIPES
from pacs import cli
from storage.errors import InvalidInput


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipes with a network and epochs that a test has time for."""
    tiny = {
        name: replace(config, network=NETWORK, stages=((1, 64),), epoch_films=16, batch=8, min_positives=4, bf16=False)
        for name, config in RECIPES.items()
    }
    monkeypatch.setattr(training, "RECIPES", tiny)


def _run(*arguments: str | Path) -> str:
    done = CliRunner().invoke(cli.app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.usefixtures("small")
def test_from_steps_to_a_distilled_network_and_its_card(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, {"train": 24, "val": 20, "test": 20})
    runs = {name: tmp_path / name for name in ("plain", "all", "second", "distilled")}
    _run("train", manifest, "--out", runs["plain"], "--recipe", "plain", "--fold", "0")
    _run("train", manifest, "--out", runs["all"], "--fold", "0")
    _run("train", manifest, "--out", runs["second"], "--fold", "0", "--seed", "3")
    teachers = [part for name in ("all", "second") for part in ("--teacher", runs[name] / "bundle")]
    _run("train", manifest, "--out", runs["distilled"], "--recipe", "distilled", "--epochs", "2", *teachers)
    bundle = runs["distilled"] / "bundle"
    table = _run("compare", *runs.values(), "--manifest", manifest, "--keep", bundle)
    assert all(step in table for step in ("`plain`", "mean of `all`, `all`", "`distilled`"))
    _run("evaluate", bundle, manifest, "--resamples", "100", "--card")
    card = (bundle / "docs" / "README.md").read_text()
    assert "| the same, each film and its mirror image | 2 |" in card
    assert "Distilled (weight 0.7) from the mean logit of 2 networks" in card
    assert "Mixup" in card
    assert "### Split test: operating points" in card


def test_an_unknown_recipe_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no recipe 'magic': plain, sources"):
        CliRunner().invoke(cli.app, ["train", str(tmp_path / "m.csv"), "--recipe", "magic"], catch_exceptions=False)
