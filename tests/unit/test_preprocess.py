"""One definition from a grey film to the network's input, the same for training and inference."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from models.phantom import chest
from models.preprocess import WHOLE, WORK_SIZE, frame_and_work, in_whole, prepare, scale, to_input, to_work
from storage.errors import NotScorable


def _film(rows: int = 400, columns: int = 300) -> np.ndarray:
    return chest(4, rows=rows, columns=columns)


@pytest.mark.parametrize("shape", [(400, 300), (300, 400), (96, 70), (2500, 2048)])
@pytest.mark.parametrize("size", [128, 224])
def test_every_film_becomes_one_standardised_square(shape: tuple[int, int], size: int) -> None:
    image = prepare(_film(*shape), size)
    assert image.shape == (1, size, size)
    assert image.dtype == np.float32
    assert abs(float(image.mean())) < 1e-3
    assert abs(float(image.std()) - 1) < 1e-2


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, np.float64, np.int16])
def test_the_type_of_the_pixels_makes_no_difference(kind: type) -> None:
    film = (_film() // 16).astype(np.uint8)
    assert np.abs(prepare(film.astype(kind), 128) - prepare(film, 128)).max() < 0.05  # rounding of the area resize


def test_exposure_makes_no_difference() -> None:
    film = _film().astype(np.float32)
    other = prepare(film * 3.7 + 500, 128)
    assert np.abs(prepare(film, 128) - other).max() < 0.05  # one grey level of 255


def test_a_bright_marker_and_dead_pixels_do_not_change_the_window() -> None:
    film = _film()
    marked = film.copy()
    marked[5:9, 5:9], marked[20, 20] = 65535, 0
    away = np.s_[0, 20:, 20:]
    assert np.abs(prepare(film, 128)[away] - prepare(marked, 128)[away]).max() < 0.25


@pytest.mark.parametrize("level", [0, 65535])
def test_an_empty_border_is_trimmed(level: int) -> None:
    film = _film(512, 512)
    framed = cv2.copyMakeBorder(film, 60, 40, 50, 30, cv2.BORDER_CONSTANT, value=level)
    plain, trimmed = prepare(film, 128), prepare(framed, 128)
    assert np.corrcoef(plain.ravel(), trimmed.ravel())[0, 1] > 0.97
    untrimmed = to_input(cv2.resize((framed / 257).astype(np.uint8), (WORK_SIZE, WORK_SIZE)), 128)
    assert np.corrcoef(plain.ravel(), untrimmed.ravel())[0, 1] < 0.8


def test_the_frame_says_what_the_trimming_left() -> None:
    film = _film(512, 512)
    framed = cv2.copyMakeBorder(film, 60, 40, 50, 30, cv2.BORDER_CONSTANT, value=0)
    rows, columns = framed.shape
    frame, work = frame_and_work(framed)
    assert np.array_equal(work, to_work(framed))
    assert frame == pytest.approx((50 / columns, 60 / rows, 1 - 30 / columns, 1 - 40 / rows), abs=2.5 / WORK_SIZE)


@pytest.mark.parametrize("shape", [(400, 300), (300, 400), (300, 300)])
def test_a_frame_of_the_central_square_lies_in_the_middle_of_the_film(shape: tuple[int, int]) -> None:
    side, (rows, columns) = 300, shape
    whole = in_whole(np.zeros(shape), WHOLE)
    assert ((whole.right - whole.left) * columns, (whole.bottom - whole.top) * rows) == pytest.approx((side, side))
    assert (whole.left + whole.right, whole.top + whole.bottom) == pytest.approx((1, 1))


def test_at_most_a_fifth_of_a_side_is_trimmed() -> None:
    film = np.zeros((400, 400), np.uint8)
    film[180:220, 180:220] = np.random.default_rng(0).integers(50, 200, (40, 40), np.uint8)
    work = to_work(film)
    assert (work > 0).mean() == pytest.approx(0.01 / 0.36, rel=0.3)  # 40 px of the 240 that remain


@pytest.mark.parametrize(
    ("film", "reason"),
    [
        (np.zeros((300, 300), np.uint16), "contrast"),
        (np.full((300, 300), np.nan, np.float32), "no numbers"),
        (np.zeros((30, 3000), np.uint8), "30x3000"),
        (np.zeros((300, 300, 3), np.uint8), "300x300x3"),
        (np.zeros((0, 0), np.uint8), "0x0"),
    ],
)
def test_what_is_no_film_is_refused_with_the_reason(film: np.ndarray, reason: str) -> None:
    with pytest.raises(NotScorable, match=reason):
        prepare(film, 128)


def test_a_foreign_range_puts_black_and_white_at_its_ends() -> None:
    square = np.array([[0, 255], [51, 204]], np.uint8)
    assert np.allclose(scale(square, -1024, 1024), [[[-1024, 1024], [-614.4, 614.4]]], atol=1e-2)


def test_the_film_itself_is_left_alone() -> None:
    film = _film()
    before = film.copy()
    prepare(film, 128)
    assert np.array_equal(film, before)
