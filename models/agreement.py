"""How far two models agree on the same images: what `sangloc models compare` prints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from models.metrics import midranks

__all__ = ["Agreement", "Pair", "agreement"]

_NAMED = 10


class Pair(NamedTuple):
    """One image that both have scored."""

    study_uid: str
    sop_uid: str
    one: float  # calibrated probability of an abnormal film
    one_flagged: bool
    other: float
    other_flagged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Of one model with another; NaN where there are too few images for a figure."""

    images: int
    both_flagged: int
    neither_flagged: int
    only_one: int
    only_other: int
    kappa: float  # Cohen's, of the flags: 1 agreement, 0 what chance gives
    rank_correlation: float  # Spearman's, of the probabilities
    mean_difference: float  # other less one
    largest: list[Pair]  # the images on which they differ most

    @property
    def agreed(self) -> float:
        """Share of the images that both or neither flag."""
        return (self.both_flagged + self.neither_flagged) / self.images if self.images else math.nan


def agreement(pairs: Sequence[Pair]) -> Agreement:
    """The figures over images that both models have scored."""
    one, other = np.array([p.one for p in pairs]), np.array([p.other for p in pairs])
    a, b = (np.array(flags, bool) for flags in ([p.one_flagged for p in pairs], [p.other_flagged for p in pairs]))
    return Agreement(
        images=len(pairs),
        both_flagged=int((a & b).sum()),
        neither_flagged=int((~a & ~b).sum()),
        only_one=int((a & ~b).sum()),
        only_other=int((~a & b).sum()),
        kappa=_kappa(a, b),
        rank_correlation=_correlation(one, other),
        mean_difference=float((other - one).mean()) if pairs else math.nan,
        largest=sorted(pairs, key=lambda p: -abs(p.other - p.one))[:_NAMED],
    )


def _kappa(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) == 0:
        return math.nan
    seen = float((a == b).mean())
    chance = float(a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean()))
    return (seen - chance) / (1 - chance) if chance < 1 else math.nan


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return math.nan
    return float(np.corrcoef(midranks(one), midranks(other))[0, 1])
