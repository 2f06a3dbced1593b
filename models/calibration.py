"""From logits to probabilities that can be believed, and from probabilities to thresholds. numpy only.

Each finding has its own Platt scaling, p = 1 / (1 + exp(-(slope x logit + offset))), fitted on validation films.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from storage.errors import InvalidBundle

__all__ = ["OPERATING_POINTS", "Calibration", "choose_thresholds", "fit_calibration"]

Floats = npt.NDArray[np.floating]

# name -> what it promises on the validation films
OPERATING_POINTS = {
    "sensitive": "sensitivity of 0.95",
    "balanced": "the greatest sum of sensitivity and specificity (Youden)",
    "specific": "specificity of 0.95",
}
_GOAL = 0.95
_FEW = 8  # films of a class, below which a threshold cannot be chosen by it
_RIDGE = 2.0  # pulls the slope towards 1, in films: keeps a finding with ten positives from a wild slope


@dataclass(frozen=True, slots=True)
class Calibration:
    """Slope and offset for each finding, in the order of the network's outputs."""

    slope: tuple[float, ...]
    offset: tuple[float, ...]

    @classmethod
    def identity(cls, findings: int) -> Self:
        """Probabilities are the plain sigmoid of the logits."""
        return cls((1.0,) * findings, (0.0,) * findings)

    @classmethod
    def from_json(cls, value: Mapping[str, object], findings: int) -> Self:
        """From `to_json`'s form; raises `InvalidBundle` unless it holds one rising line for each finding."""
        slope, offset = value.get("slope"), value.get("offset")
        good = value.get("method") == "platt" and isinstance(slope, list) and isinstance(offset, list)
        if not good or not isinstance(slope, list) or not isinstance(offset, list):
            raise InvalidBundle("the calibration is not of the form {method: platt, slope: [...], offset: [...]}")
        numbers = [value for value in slope + offset if isinstance(value, int | float) and np.isfinite(value)]
        if len(slope) != findings or len(offset) != findings or len(numbers) != 2 * findings or min(slope) <= 0:
            raise InvalidBundle(f"the calibration does not hold a positive slope and an offset for {findings} findings")
        return cls(tuple(map(float, slope)), tuple(map(float, offset)))

    def to_json(self) -> dict[str, object]:
        """A form that JSON keeps exactly."""
        return {"method": "platt", "slope": list(self.slope), "offset": list(self.offset)}

    def apply(self, logits: Floats) -> npt.NDArray[np.float64]:
        """Probabilities [n, findings] of logits [n, findings]."""
        line = np.asarray(logits, np.float64) * np.array(self.slope) + np.array(self.offset)
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(line, -60, 60))))


def fit_calibration(logits: Floats, labels: Floats) -> Calibration:
    """Platt scaling by Newton's method; logits and labels [n, findings], NaN labels are left out.

    A finding without both classes keeps the plain sigmoid.
    """
    lines = [_platt(logits[:, column], labels[:, column]) for column in range(logits.shape[1])]
    return Calibration(tuple(slope for slope, _ in lines), tuple(offset for _, offset in lines))


def _platt(logits: Floats, labels: Floats) -> tuple[float, float]:
    known = np.isfinite(labels)
    x, y = logits[known].astype(np.float64), labels[known].astype(np.float64)
    if len(set(y.tolist())) < 2:
        return 1.0, 0.0
    positives, negatives = y.sum(), (1 - y).sum()
    y = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))  # Platt 1999: no certainty
    theta, design = np.array([1.0, 0.0]), np.column_stack([x, np.ones_like(x)])
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(design @ theta, -60, 60)))
        gradient = design.T @ (p - y) + np.array([_RIDGE * (theta[0] - 1), 0])
        curvature = design.T @ (design * (p * (1 - p))[:, np.newaxis]) + np.diag([_RIDGE, 1e-9])
        step = np.linalg.solve(curvature, gradient)
        theta = theta - step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-9:
            break
    return max(float(theta[0]), 1e-3), float(theta[1])


def choose_thresholds(probabilities: Floats, labels: Floats) -> dict[str, float]:
    """A threshold for each of `OPERATING_POINTS`, from probabilities and labels [n] of one finding (NaN left out).

    With few positives every point is the specific one; with few negatives all are 0.5.
    """
    positives, negatives = np.sort(probabilities[labels == 1]), np.sort(probabilities[labels == 0])
    if len(negatives) < _FEW:
        return dict.fromkeys(OPERATING_POINTS, 0.5)
    specific = float(np.nextafter(negatives[int(np.ceil(_GOAL * len(negatives))) - 1], 1))
    if len(positives) < _FEW:
        return dict.fromkeys(OPERATING_POINTS, specific)
    sensitive = float(positives[int(np.floor((1 - _GOAL) * len(positives) + 1e-9))])
    return {"sensitive": sensitive, "balanced": _youden(positives, negatives), "specific": specific}


def _youden(positives: Floats, negatives: Floats) -> float:
    """The middle of the gap below the probability at which sensitivity + specificity is greatest."""
    every = np.unique(np.concatenate([positives, negatives]))
    found = 1 - np.searchsorted(positives, every) / len(positives)
    spared = np.searchsorted(negatives, every) / len(negatives)
    best = int(np.argmax(found + spared))
    return float((every[best] + every[max(best - 1, 0)]) / 2)
