"""The figures against their definitions, counted pair by pair, and against published values of scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.metrics import auroc, expected_calibration_error, midranks, sensitivity, specificity

films = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40)


@given(films)
def test_auroc_is_the_share_of_pairs_in_the_right_order_ties_counting_half(cases: list[tuple[int, bool]]) -> None:
    sick = [score for score, label in cases if label]
    well = [score for score, label in cases if not label]
    value = auroc(np.array([s for s, _ in cases], float), np.array([int(label) for _, label in cases]))
    if not sick or not well:
        assert math.isnan(value)
    else:
        pairs = [1.0 if s > w else 0.5 if s == w else 0.0 for s in sick for w in well]
        assert value == pytest.approx(sum(pairs) / len(pairs))


def test_auroc_of_the_example_in_scikit_learns_documentation() -> None:
    assert auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])) == 0.75  # sklearn.metrics.roc_auc_score


def test_auroc_agrees_with_scikit_learn_where_it_is_installed() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(2)
    scores, labels = rng.integers(0, 50, 500) / 50, rng.integers(0, 2, 500)
    assert auroc(scores, labels) == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-12)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30))
def test_midranks_count_what_is_below_and_half_of_what_is_equal(values: list[int]) -> None:
    ranks = midranks(np.array(values, float))
    for value, rank in zip(values, ranks, strict=True):
        below, equal = sum(v < value for v in values), sum(v == value for v in values)
        assert rank == below + (equal + 1) / 2


def test_sensitivity_and_specificity_meet_at_the_threshold() -> None:
    p, y = np.array([0.2, 0.5, 0.5, 0.9]), np.array([0, 0, 1, 1])
    assert (sensitivity(p, y, 0.5), specificity(p, y, 0.5)) == (1.0, 0.5)  # at the threshold is a flag
    assert (sensitivity(p, y, 0.6), specificity(p, y, 0.6)) == (0.5, 1.0)
    assert math.isnan(sensitivity(p, 0 * y, 0.5))
    assert math.isnan(specificity(p, 0 * y + 1, 0.5))


def test_calibration_error_by_hand() -> None:
    p = np.array([0.05, 0.05, 0.95, 0.95, 1.0])
    y = np.array([0, 1, 1, 1, 1])
    # bin 0: two films, probability 0.05, frequency 0.5; bin 9: three films, sum of 2.9 against 3
    assert expected_calibration_error(p, y) == pytest.approx((2 * 0.45 + 0.1) / 5)
    assert math.isnan(expected_calibration_error(p[:0], y[:0]))


def test_honest_probabilities_have_hardly_any_calibration_error() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(50_000)
    assert expected_calibration_error(p, (rng.random(50_000) < p).astype(int)) < 0.01
