"""How far two models agree: figures against values worked out by hand, and what stays undefined."""

from __future__ import annotations

import math

import pytest

from models.agreement import Pair, agreement


def pairs(*flags: tuple[float, bool, float, bool]) -> list[Pair]:
    return [Pair(f"1.{n}", f"2.{n}", *each) for n, each in enumerate(flags)]


def test_flags_probabilities_and_the_largest_differences() -> None:
    found = agreement(
        pairs((0.9, True, 0.8, True), (0.2, False, 0.1, False), (0.7, True, 0.3, False), (0.4, False, 0.6, True))
    )
    assert (found.images, found.both_flagged, found.neither_flagged, found.only_one, found.only_other) == (
        4,
        1,
        1,
        1,
        1,
    )
    assert found.agreed == 0.5
    assert found.kappa == 0  # half agree, and so would two coins
    assert found.rank_correlation == pytest.approx(0.8)  # ranks 4 1 3 2 and 4 1 2 3
    assert found.mean_difference == pytest.approx(-0.1)
    assert [one.sop_uid for one in found.largest[:2]] == ["2.2", "2.3"]


def test_models_that_always_agree() -> None:
    found = agreement(pairs((0.9, True, 0.7, True), (0.1, False, 0.3, False), (0.2, False, 0.4, False)))
    assert (found.kappa, found.agreed, found.rank_correlation) == (1, 1, pytest.approx(1))


@pytest.mark.parametrize("flags", [(), ((0.5, True, 0.5, True),), ((0.5, True, 0.5, True), (0.5, True, 0.5, True))])
def test_what_cannot_be_told_is_no_number(flags: tuple[tuple[float, bool, float, bool], ...]) -> None:
    found = agreement(pairs(*flags))
    assert found.images == len(flags)
    assert math.isnan(found.kappa)
    assert math.isnan(found.rank_correlation)
    assert math.isnan(found.agreed) == (not flags)
