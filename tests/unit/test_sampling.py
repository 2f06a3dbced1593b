"""What films teach: which are drawn, which are left out to judge on, and what counts where nobody looked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.augment import blend
from models.data import Film, traits
from models.recipe import FOLDS, RECIPES, TrainConfig
from models.sampling import Lessons, fold_of, mixed_source_films, split_fold

FINDINGS = ("Abnormal", "Mass")
MINED = "NIH report text mining"
PLAIN = replace(RECIPES["plain"], soften=False)


def _film(image: str, abnormal: int, **more: object) -> Film:
    fields: dict[str, object] = {"image": image, "path": Path(image), "source": "nih", "split": "train", "group": image,
              "labelled": abnormal, "radiologist": None, "findings": frozenset({"Mass"} if abnormal else ()),
              "basis": MINED}  # fmt: skip
    return Film(**fields | more)  # type: ignore[arg-type]


FILMS = [_film(f"n{i}", i % 2) for i in range(40)] + [_film(f"t{i}", 1, source="tb", basis="TB") for i in range(20)]


def test_folds_part_the_patients_of_mixed_sources_and_nobody_is_lost() -> None:
    val = [_film("v0", 0), _film("v1", 1), _film("v2", 1, source="tb")]
    seen = list[str]()
    for fold in range(FOLDS):
        kept, held = split_fold(FILMS, val, fold)
        assert {film.source for film in held} == {"nih"}
        assert len(kept) + len(held) == len(FILMS)
        assert all(fold_of(film) == fold for film in held)
        seen += [film.image for film in held]
    assert sorted(seen) == sorted(film.image for film in FILMS if film.source == "nih")
    assert split_fold(FILMS, val, None) == (FILMS, [])
    assert fold_of(_film("a", 0, group="p")) == fold_of(_film("b", 1, group="p"))


def test_shares_decide_how_often_a_source_is_drawn() -> None:
    config = replace(PLAIN, shares=(("nih", 0, 0.2), ("nih", 1, 0.3)), other_share=0.5)
    chances = Lessons.of(FILMS, FINDINGS, config, None).chances
    assert chances.sum() == pytest.approx(1)
    assert chances[0:40:2].sum() == pytest.approx(0.2)
    assert chances[1:40:2].sum() == pytest.approx(0.3)
    assert np.allclose(Lessons.of(FILMS, FINDINGS, PLAIN, None).chances, 1 / 60)


def test_what_nobody_looked_for_counts_nothing_and_one_class_counts_less() -> None:
    films = [_film("a", 0), _film("b", 1), _film("c", 1, source="tb", basis="TB", findings=frozenset())]
    lessons = Lessons.of(films, FINDINGS, replace(PLAIN, one_class_weight=0.5), None)
    assert lessons.weights.tolist() == [[1, 1], [1, 1], [0.5, 0]]
    assert lessons.targets.tolist() == [[0, 0], [1, 1], [1, 0]]
    assert lessons.findings == 2


def test_teachers_are_mixed_with_labels_and_speak_alone_where_there_are_none() -> None:
    films = [_film("a", 1), _film("c", 1, source="tb", basis="TB", findings=frozenset())]
    taught = np.array([[0.5, 0.2], [0.6, 0.4]], np.float32)
    lessons = Lessons.of(films, FINDINGS, replace(PLAIN, distil=0.75), taught)
    assert lessons.targets == pytest.approx(np.array([[0.625, 0.4], [0.7, 0.4]]))
    assert lessons.weights[1, 1] == 0.75


def test_traits_are_known_only_where_the_manifest_says_so() -> None:
    films = [_film("a", 0, view="AP", sex="F", age=61), _film("b", 0, view="PA", sex="M", age=60), _film("c", 0)]
    nan = np.nan
    expected = [[1, 1, 1], [0, 0, 0], [nan, nan, nan]]
    assert np.array_equal(traits(films), np.array(expected, np.float32), equal_nan=True)
    lessons = Lessons.of(films, FINDINGS, replace(PLAIN, traits=1.0), None)
    assert lessons.targets.shape == (3, 5)
    assert lessons.weights[:, 2:].tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]


def test_blended_tables_share_their_shares() -> None:
    images = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1)
    table = np.arange(4, dtype=np.float32).reshape(4, 1)
    mixed, labels = blend([images, table], 0.3, np.random.default_rng(1))
    assert mixed.reshape(4, 1) == pytest.approx(labels)
    assert (labels[0, 0] <= 1.5, labels[3, 0] >= 1.5) == (True, True)  # the greater share is its own
    assert labels.sum() != pytest.approx(table.sum())


def test_sources_of_one_class_are_no_judges() -> None:
    assert {film.source for film in mixed_source_films(FILMS)} == {"nih"}
    assert len(mixed_source_films(FILMS[40:])) == 20


def test_every_recipe_is_one_step_from_another() -> None:
    assert all(config.recipe == name for name, config in RECIPES.items())
    base = RECIPES["sources"]
    for step in ("mixup", "traits", "drawn"):
        assert replace(base, recipe=step, **{step: getattr(TrainConfig(), step)}) == RECIPES[step]
    assert (base.mixup, base.traits, base.drawn) == (0, 0, 0)
