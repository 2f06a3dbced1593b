"""Calibrated probabilities match frequencies; thresholds keep what their operating point promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.calibration import OPERATING_POINTS, Calibration, choose_thresholds, fit_calibration
from models.metrics import auroc, expected_calibration_error, sensitivity, specificity
from storage.errors import InvalidBundle


def _drawn(slope: float, offset: float, films: int = 6000) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels that are positive with probability sigmoid(slope x logit + offset)."""
    rng = np.random.default_rng(11)
    logits = rng.normal(0, 2, films)
    labels = (rng.random(films) < 1 / (1 + np.exp(-(slope * logits + offset)))).astype(float)
    return logits[:, None], labels[:, None]


@pytest.mark.parametrize(("slope", "offset"), [(0.4, 0.0), (0.5, -1.0), (2.0, 0.7), (1.0, 0.0)])
def test_platt_scaling_finds_the_line_that_made_the_labels(slope: float, offset: float) -> None:
    calibration = fit_calibration(*_drawn(slope, offset))
    assert calibration.slope[0] == pytest.approx(slope, rel=0.1)
    assert calibration.offset[0] == pytest.approx(offset, abs=0.12)


def test_calibration_lowers_the_calibration_error_on_new_films_and_keeps_their_order() -> None:
    logits, labels = _drawn(0.4, -1.2)
    half = len(logits) // 2
    fitted, plain = fit_calibration(logits[:half], labels[:half]), Calibration.identity(1)
    new, truth = logits[half:], labels[half:, 0].astype(int)
    before = expected_calibration_error(plain.apply(new)[:, 0], truth)
    after = expected_calibration_error(fitted.apply(new)[:, 0], truth)
    assert before > 0.15
    assert after < 0.03
    assert auroc(fitted.apply(new)[:, 0], truth) == auroc(new[:, 0], truth)


def test_films_on_which_nobody_looked_do_not_count() -> None:
    logits, labels = _drawn(0.5, 0.3, 500)
    unknown = np.full((500, 1), np.nan)
    both = fit_calibration(np.concatenate([logits, logits - 9]), np.concatenate([labels, unknown]))
    assert both == fit_calibration(logits, labels)


def test_a_finding_with_one_class_keeps_the_plain_sigmoid() -> None:
    logits = np.random.default_rng(0).normal(size=(40, 2))
    labels = np.column_stack([np.zeros(40), np.full(40, np.nan)])
    assert fit_calibration(logits, labels) == Calibration.identity(2)


def test_a_perfect_separation_does_not_end_in_infinite_certainty() -> None:
    logits = np.array([[-3.0]] * 10 + [[3.0]] * 10)
    calibration = fit_calibration(logits, (logits > 0).astype(float))
    low, high = calibration.apply(np.array([[-3.0], [3.0]]))[:, 0]
    assert 0.01 < low < 0.2
    assert 0.8 < high < 0.99


def test_a_useless_network_gets_the_frequency_and_never_a_falling_line() -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 1, (400, 1))
    labels = (np.arange(400) % 4 == 0).astype(float)[:, None]
    for sign in (1, -1):
        calibration = fit_calibration(sign * logits, labels)
        assert calibration.slope[0] > 0
        assert calibration.apply(logits).mean() == pytest.approx(0.25, abs=0.02)


def test_extreme_logits_give_probabilities() -> None:
    p = Calibration((2.0,), (0.0,)).apply(np.array([[-1e30], [1e30], [0.0]]))
    assert np.all((p >= 0) & (p <= 1))
    assert p[2, 0] == 0.5


def test_json_keeps_a_calibration_exactly() -> None:
    calibration = fit_calibration(*_drawn(0.7, 0.1, 300))
    assert Calibration.from_json(calibration.to_json(), 1) == calibration


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"method": "isotonic", "slope": [1.0], "offset": [0.0]},
        {"method": "platt", "slope": [1.0], "offset": []},
        {"method": "platt", "slope": [-1.0], "offset": [0.0]},
        {"method": "platt", "slope": ["1"], "offset": [0.0]},
        {"method": "platt", "slope": [float("nan")], "offset": [0.0]},
        {"method": "platt", "slope": 1.0, "offset": 0.0},
    ],
)
def test_a_calibration_that_is_none_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(InvalidBundle, match="calibration"):
        Calibration.from_json(value, 1)


scores = st.lists(st.floats(0, 0.99, allow_subnormal=False), min_size=8, max_size=60)


@given(scores, scores)
def test_operating_points_keep_their_promise_on_the_films_that_chose_them(sick: list[float], well: list[float]) -> None:
    p = np.array(sick + well)
    y = np.array([1] * len(sick) + [0] * len(well))
    points = choose_thresholds(p, y)
    assert set(points) == set(OPERATING_POINTS)
    assert sensitivity(p, y, points["sensitive"]) >= 0.95
    assert specificity(p, y, points["specific"]) >= 0.95
    best = max(sensitivity(p, y, t) + specificity(p, y, t) for t in np.unique(p))
    reached = sensitivity(p, y, points["balanced"]) + specificity(p, y, points["balanced"])
    assert reached == pytest.approx(best)


def test_the_sensitive_threshold_is_the_highest_that_keeps_the_promise() -> None:
    p, y = np.arange(100) / 100, np.ones(100, int)
    p, y = np.concatenate([p, p]), np.concatenate([y, 0 * y])
    threshold = choose_thresholds(p, y)["sensitive"]
    assert threshold == 0.05
    assert sensitivity(p, y, 0.06) < 0.95


def test_with_few_positives_every_point_is_the_specific_one_and_with_few_negatives_a_half() -> None:
    p = np.linspace(0, 1, 40)
    few = np.zeros(40)
    few[-3:] = 1
    assert len(set(choose_thresholds(p, few).values())) == 1
    assert specificity(p, few, choose_thresholds(p, few)["balanced"]) >= 0.95
    assert set(choose_thresholds(p, 1 - few).values()) == {0.5}
