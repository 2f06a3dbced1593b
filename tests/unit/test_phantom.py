"""Phantoms look like chests to a program: dark lungs beside a bright mediastinum; abnormalities where drawn."""

from __future__ import annotations

import numpy as np
import pytest

from models.phantom import ABNORMALITIES, chest, lateral


@pytest.mark.parametrize("abnormality", ABNORMALITIES)
def test_a_phantom_is_twelve_bits_of_the_asked_size(abnormality: str) -> None:
    film = chest(3, abnormality, rows=256, columns=224)  # type: ignore[arg-type]
    assert film.shape == (256, 224)
    assert film.dtype == np.uint16
    assert film.max() <= 4095
    assert np.unique(film).size > 500  # grey, not a mask


def test_equal_seeds_draw_equal_films_and_others_do_not() -> None:
    assert np.array_equal(chest(5, rows=128, columns=112), chest(5, rows=128, columns=112))
    assert not np.array_equal(chest(5, rows=128, columns=112), chest(6, rows=128, columns=112))


def test_lungs_are_darker_than_mediastinum_heart_and_abdomen() -> None:
    film = chest(1, rows=256, columns=224).astype(float)
    right_lung, left_lung = film[90:130, 55:75].mean(), film[90:130, 150:170].mean()
    mediastinum, abdomen, air = film[60:110, 105:118].mean(), film[215:250, 60:160].mean(), film[:20, :10].mean()
    assert max(right_lung, left_lung) < 0.7 * min(mediastinum, abdomen)
    assert air < min(right_lung, left_lung)


@pytest.mark.parametrize("abnormality", [name for name in ABNORMALITIES if name])
def test_an_abnormality_changes_the_film_more_than_noise(abnormality: str) -> None:
    plain = chest(9, rows=256, columns=224).astype(float)
    drawn = chest(9, abnormality, rows=256, columns=224).astype(float)  # type: ignore[arg-type]
    changed = np.abs(drawn - plain) > 250
    assert 0.001 < changed.mean() < 0.3


def test_effusion_whitens_and_pneumothorax_darkens() -> None:
    plain = chest(9, rows=256, columns=224).astype(float)
    assert (chest(9, "effusion", rows=256, columns=224) - plain).mean() > 0
    assert (chest(9, "pneumothorax", rows=256, columns=224) - plain).mean() < 0


def test_a_lateral_film_is_no_frontal_film() -> None:
    film = lateral(2, rows=256, columns=224)
    assert film.shape == (256, 224)
    frontal = chest(2, rows=256, columns=224)
    assert np.abs(film.astype(float) - frontal).mean() > 300
