"""What the input gate is trained and judged on: labels that are true, and the same every time."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.gate_evaluation import wilson
from models.gate_views import (
    children_part,
    crop,
    drawings,
    of_split,
    other_view,
    read_subjects,
    spoiled_view,
    training_view,
)
from models.notchest import DRAWN, MADE, draw, spoil
from models.phantom import chest
from storage.errors import InvalidInput

FILM = (chest(1, rows=224, columns=192) >> 4).astype(np.uint8)


@pytest.mark.parametrize("kind", sorted(DRAWN))
def test_a_drawing_is_the_same_for_a_seed_and_another_for_another(kind: str) -> None:
    one, again, other = (draw(kind, np.random.default_rng(seed), 96) for seed in (1, 1, 2))
    assert one.shape == (96, 96)
    assert (one.min(), one.max()) == (0, 1)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("kind", sorted(MADE))
def test_a_film_taken_apart_is_no_longer_that_film(kind: str) -> None:
    whole = cv2.resize(FILM, (160, 160)).astype(np.float32) / 255
    for seed in range(8):
        made = spoil(kind, whole, np.random.default_rng(seed))
        near = cv2.resize(made, (160, 160))
        assert np.corrcoef(near.ravel(), whole.ravel())[0, 1] < 0.95


def test_drawings_are_of_every_kind_in_turn() -> None:
    kinds = [kind for kind, _ in drawings(2 * len(DRAWN), 3, 64)]
    assert Counter(kinds) == dict.fromkeys(DRAWN, 2)


def test_labels_are_what_was_done_to_the_film() -> None:
    turned: Counter[int] = Counter()
    for seed in range(300):
        view = training_view(FILM, child=0.0, rng=np.random.default_rng(seed))
        inverted, cropped, not_chest, child = view.labels
        assert view.plain.shape == (64, 64)
        assert inverted in (0, 1)
        assert cropped in (0, 1) or math.isnan(cropped)
        assert not_chest == 0 or (math.isnan(not_chest) and cropped == 1)  # too little is left to say
        assert child == 0
        turned[view.turned] += 1
    assert set(turned) == {0, 1, 2, 3}
    assert turned[0] > max(turned[1], turned[2], turned[3])


def test_the_turn_of_a_view_can_be_seen_in_it() -> None:
    """A bright upper half says which way the view was turned, for those that are whole and not inverted."""
    half = np.full((200, 200), 40, np.uint8)
    half[:70] = 220
    checked = 0
    for seed in range(200):
        view = training_view(half, child=0.0, rng=np.random.default_rng(seed))
        if view.labels[0] or view.labels[1] != 0:
            continue
        back = np.rot90(view.plain, -view.turned).astype(float)
        assert back[4:17].mean() > back[40:].mean()
        checked += 1
    assert checked > 50


@pytest.mark.parametrize("make", [spoiled_view, other_view])
def test_of_other_things_only_that_they_are_no_chest_is_known(make: object) -> None:
    view = make(FILM, np.random.default_rng(1))  # type: ignore[operator]
    assert view.turned == -1
    assert view.labels[2] == 1
    assert all(math.isnan(label) for place, label in enumerate(view.labels) if place != 2)


@given(st.floats(0.05, 0.9), st.integers(0, 1000))
def test_a_crop_has_about_the_share_that_was_asked_for(share: float, seed: int) -> None:
    part = crop(np.zeros((300, 240), np.uint8), share, np.random.default_rng(seed))
    assert part.size / (300 * 240) == pytest.approx(share, rel=0.08)


def test_children_are_divided_by_group_and_always_alike() -> None:
    parts = Counter(children_part(f"patient {number}") for number in range(4000))
    assert parts["fit"] == pytest.approx(2000, rel=0.1)
    assert parts["val"] == pytest.approx(1000, rel=0.15)
    assert children_part("kermany_person1") == children_part("kermany_person1")


def manifest(folder: Path, *rows: str) -> Path:
    file = folder / "manifest.csv"
    file.write_text("\n".join(["image,split,source,group,age,qc_flags", *rows]) + "\n", "utf-8")
    return file


def test_who_is_a_child_and_what_the_publisher_inverted(tmp_path: Path) -> None:
    rows = ["a.png,train,nih,p1,54,", "b.png,test,nih,p2,67+,inverted|colour", "c.png,pediatric,nih,p3,12,"]
    rows += ["d.png,pediatric,nih,p3,17,", "e.png,pediatric,kermany,p4,1-5,", "f.png,train,x,,,"]
    found = read_subjects(manifest(tmp_path, *rows))
    assert [one.child for one in found[:3]] == [0, 0, 1]
    assert math.isnan(found[3].child)  # seventeen: neither child nor adult to the gate
    assert [one.age for one in found[:5]] == [54, 67, 12, 17, 1]
    assert [one.inverted for one in found] == [False, True, False, False, False, False]
    assert found[2].split == found[3].split == children_part("p3")
    assert [one.image for one in of_split(found, child=False, split="train")] == ["a.png", "f.png"]
    cv2.imwrite(str(tmp_path / "b.png"), np.full((80, 60), 200, np.uint8))
    assert int(found[1].read()[0, 0]) == 55
    with pytest.raises(InvalidInput, match=r"a\.png is not an image"):
        found[0].read()


def test_a_manifest_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_subjects(tmp_path / "none.csv")
    (tmp_path / "less.csv").write_text("image,split\na.png,train\n")
    with pytest.raises(InvalidInput, match="no column source, group, age, qc_flags"):
        read_subjects(tmp_path / "less.csv")


@pytest.mark.parametrize(
    ("count", "images", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (0, 0, 0, 1)],
)
def test_wilson_intervals(count: int, images: int, low: float, high: float) -> None:
    assert wilson(count, images) == pytest.approx((low, high), abs=1e-4)
