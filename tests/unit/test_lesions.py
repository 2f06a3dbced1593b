"""A drawn lesion makes a chest film locally denser, and leaves what is no body alone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from models.lesions import LESIONS, draw_lesion
from models.phantom import chest
from models.preprocess import to_work

WORK = to_work(chest(3, rows=256, columns=224))


@pytest.mark.parametrize("kind", LESIONS)
def test_a_lesion_is_denser_than_what_it_covers_and_local(kind: str) -> None:
    before = WORK.copy()
    for seed in range(12):
        drawn = draw_lesion(WORK, kind, np.random.default_rng(seed))
        change = drawn.astype(int) - WORK.astype(int)
        assert (drawn.dtype, drawn.shape) == (np.uint8, WORK.shape)
        assert change.min() >= -1  # rounding
        assert change.max() >= 5
        assert (change > 3).mean() < 0.35
    assert np.array_equal(WORK, before)


def test_kinds_differ_in_size() -> None:
    def covered(kind: str) -> float:
        films = [draw_lesion(WORK, kind, np.random.default_rng(seed)) for seed in range(20)]
        return float(np.mean([(film.astype(int) - WORK > 4).mean() for film in films]))

    assert covered("Nodule") < covered("Mass") < covered("Infiltration")


def test_the_same_numbers_draw_the_same_lesion() -> None:
    one, again, other = (draw_lesion(WORK, "Mass", np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_air_around_the_body_stays_black() -> None:
    film = np.zeros((256, 256), np.uint8)
    cv2.ellipse(film, (128, 140), (70, 110), 0, 0, 360, 150, -1)
    for kind in LESIONS:
        for seed in range(10):
            drawn = draw_lesion(film, kind, np.random.default_rng(seed))
            assert drawn[:, :30].max() == 0
            assert drawn[:, -30:].max() == 0
