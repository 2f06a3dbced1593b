"""Maps: they add up to the logit, lie where the evidence lies, and come back from the store as they went in."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.maps import Maps, activation, pack, region, unpack
from models.preprocess import WHOLE, Frame
from storage.errors import InvalidInput


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(1, 14))
def test_the_sum_over_places_is_the_logit(seed: int, h: int, w: int, c: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(c, h, w)).astype(np.float32)
    weights, bias = rng.normal(size=(k, c)).astype(np.float32), rng.normal(size=k).astype(np.float32)
    maps = activation(features, weights, bias)
    assert maps.shape == (k, h, w)
    assert maps.dtype == np.float32
    logits = weights.astype(np.float64) @ features.mean((1, 2), dtype=np.float64) + bias
    assert np.abs(maps.sum((1, 2), dtype=np.float64) - logits).max() < 1e-4


def spot(y: int, x: int, side: int = 7) -> npt.NDArray[np.float32]:
    made = np.full((side, side), -0.2, np.float32)
    made[y, x] = 1
    return made


@pytest.mark.parametrize(("y", "x"), [(0, 0), (3, 3), (1, 5), (6, 2)])
def test_the_region_is_around_the_peak(y: int, x: int) -> None:
    found = region(spot(y, x))
    assert found is not None
    assert found.peak_x == pytest.approx((x + 0.5) / 7, abs=0.08)
    assert found.peak_y == pytest.approx((y + 0.5) / 7, abs=0.08)
    assert found.left <= found.peak_x <= found.right
    assert found.top <= found.peak_y <= found.bottom
    assert 0 < (found.right - found.left) < 0.3
    assert 0 <= found.left < found.right <= 1
    assert 0 <= found.top < found.bottom <= 1


def test_a_second_lesser_spot_is_not_part_of_the_region() -> None:
    found = region(spot(1, 1) + 0.9 * (spot(5, 5) + 0.2))
    assert found is not None
    assert found.right < 0.5
    assert found.bottom < 0.5


def test_a_film_flagged_at_a_negative_logit_has_a_region_too() -> None:
    shifted, plain = region(spot(2, 4) - 5), region(spot(2, 4))
    assert shifted is not None
    assert plain is not None
    assert shifted == pytest.approx(plain, abs=0.011)


@pytest.mark.parametrize("flat", [np.zeros((6, 6)), np.full((6, 6), 3.3), np.full((6, 6), np.nan)])
def test_a_map_that_points_nowhere_has_no_region(flat: npt.NDArray[np.float64]) -> None:
    assert region(flat.astype(np.float32)) is None


def test_the_region_lies_in_the_part_of_the_film_that_the_network_saw() -> None:
    inner, whole = region(spot(3, 3), Frame(0.2, 0.1, 0.6, 0.9)), region(spot(3, 3))
    assert inner is not None
    assert whole is not None
    assert inner.peak_x == pytest.approx(0.2 + 0.4 * whole.peak_x)
    assert inner.peak_y == pytest.approx(0.1 + 0.8 * whole.peak_y)
    assert (inner.left, inner.bottom) == pytest.approx((0.2 + 0.4 * whole.left, 0.1 + 0.8 * whole.bottom))


def test_what_is_packed_is_small_and_comes_back() -> None:
    maps = np.random.default_rng(1).normal(0, 0.1, (6, 7, 7)).astype(np.float32)
    names = ("Abnormal", "Pleural_Thickening", "Tràn khí", "d", "e", "f")
    stored = pack(Maps(names, maps, Frame(0.05, 0.1, 0.95, 1.0)))
    read = unpack(stored)
    assert len(stored) < 3000
    assert read.names == names
    assert np.abs(read.maps - maps).max() < 1e-3
    assert read.frame == pytest.approx((0.05, 0.1, 0.95, 1.0))


def _parts(**over: Any) -> bytes:
    good = Maps(("a",), np.zeros((1, 6, 6), np.float32), WHOLE)._asdict()
    return pack(Maps(**{**good, **over}))


@pytest.mark.parametrize(
    "stored",
    [b"", b"not an object of ours", _parts()[:100], _parts(names=("a", "b")), _parts(maps=np.zeros(1, np.float32))],
)
def test_what_is_no_stored_map_is_refused(stored: bytes) -> None:
    with pytest.raises(InvalidInput, match="no stored maps"):
        unpack(stored)
