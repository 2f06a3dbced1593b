"""Figures of a classifier, in numpy."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["auroc", "expected_calibration_error", "midranks", "sensitivity", "specificity"]

Values = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]


def midranks(values: Values) -> npt.NDArray[np.float64]:
    """Ranks from 1, ties share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place], np.float64)


def auroc(scores: Values, labels: Labels) -> float:
    """Area under the receiver operating curve (the rank-sum statistic, ties count half); NaN with one class only."""
    positives = int(np.sum(labels == 1))
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return math.nan
    return float((midranks(scores)[labels == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def sensitivity(probabilities: Values, labels: Labels, threshold: float) -> float:
    """Share of the positives at or above the threshold; NaN without positives."""
    here = probabilities[labels == 1]
    return float(np.mean(here >= threshold)) if len(here) else math.nan


def specificity(probabilities: Values, labels: Labels, threshold: float) -> float:
    """Share of the negatives below the threshold; NaN without negatives."""
    here = probabilities[labels == 0]
    return float(np.mean(here < threshold)) if len(here) else math.nan


def expected_calibration_error(probabilities: Values, labels: Labels, bins: int = 10) -> float:
    """Mean distance of probability and frequency over equal-width bins, weighted by their films; NaN without films."""
    if len(labels) == 0:
        return math.nan
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    excess = np.bincount(place, weights=probabilities - labels, minlength=bins)
    return float(np.abs(excess).sum() / len(labels))
