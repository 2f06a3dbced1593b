"""What the gate makes of what it saw: the order of its reasons, where its limits lie, and how outcomes are counted."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.gate import Gatekeeper, Thresholds, Verdict, fault_of, load_gate, put_right
from models.gate_card import write_gate_card
from models.gate_evaluation import COUNTED, Case, GateReport, Row, _outcome
from models.phantom import chest

LIMITS = Thresholds(upright=0.5, sure=0.95, cropped=0.8, not_chest=0.6, child=0.9, strange=0.4)
GOOD = {"sure": 1.0, "cropped": 0.1, "not_chest": 0.1, "child": 0.1, "strange": 0.1}
FILM = (chest(1, rows=224, columns=192) >> 4).astype(np.uint8)


@pytest.fixture(scope="module")
def keeper() -> Gatekeeper:
    return replace(load_gate(), thresholds=LIMITS)


@pytest.mark.parametrize(
    ("way", "seen", "reason"),
    [
        (0, {}, ""),
        (0, {"cropped": 0.8}, "cropped"),
        (0, {"cropped": 0.79}, ""),
        (0, {"child": 0.9}, "child"),
        (0, {"child": 0.89}, ""),
        (0, {"not_chest": 0.6}, "not_chest"),
        (0, {"strange": 0.4}, "not_chest"),
        (0, {"sure": 0.49}, "turned"),
        (0, {"sure": 0.5}, ""),  # it stands as it came: no certainty is needed to leave it so
        (1, {"sure": 0.94}, "turned"),
        (1, {"sure": 0.95}, ""),
        (4, {"sure": 0.94}, "inverted"),
        (4, {"sure": 0.95}, ""),
        (6, {"sure": 0.94}, "turned"),
        (6, {"sure": 0.95, "child": 0.95}, "child"),
        (2, {"sure": 0.6, "not_chest": 0.9}, "not_chest"),  # what is no chest has no right way up
        (0, {"cropped": 0.9, "strange": 0.9}, "cropped"),  # a part of a chest looks strange for that
        (0, {"strange": 0.9, "child": 0.95}, "not_chest"),
    ],
)
def test_the_first_reason_that_holds_is_told(way: int, seen: dict[str, float], reason: str, keeper: Gatekeeper) -> None:
    assert keeper._reason(way, GOOD | seen) == reason


@given(st.integers(0, 7), st.fixed_dictionaries({name: st.floats(0, 1) for name in GOOD}))
def test_nothing_is_put_right_without_certainty(way: int, seen: dict[str, float]) -> None:
    gate = Gatekeeper("gate", "1", "0" * 64, LIMITS, {})
    if way and not gate._reason(way, seen):
        assert seen["sure"] >= LIMITS.sure
    if not gate._reason(way, seen):
        assert seen["not_chest"] < LIMITS.not_chest
        assert seen["strange"] < LIMITS.strange


def test_a_verdict_names_what_each_limit_was_held_against(keeper: Gatekeeper) -> None:
    verdict = keeper.look(FILM)
    assert set(verdict.chances) == set(GOOD)
    assert all(-1e-6 <= value <= 1 for value in verdict.chances.values())
    assert replace(keeper, thresholds=replace(LIMITS, child=0.0)).look(FILM).reason == "child"
    assert replace(keeper, thresholds=replace(LIMITS, strange=0.0)).look(FILM).reason == "not_chest"


@given(st.integers(0, 3), st.booleans(), st.integers(2, 40), st.integers(2, 40))
def test_putting_right_undoes_what_was_done(quarter: int, inverted: bool, rows: int, columns: int) -> None:
    film = np.arange(rows * columns, dtype=np.uint32).reshape(rows, columns).astype(np.uint8)
    came = np.rot90(film, quarter)
    back = put_right(~came if inverted else came, 90 * quarter, inverted=inverted)
    assert np.array_equal(back, film)
    assert back.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda film: film, ""),
        (lambda film: film // 2, ""),  # dark, and all there
        (lambda film: np.clip(film.astype(int) + 60, 0, 255), ""),
        (lambda film: np.where(np.arange(film.size).reshape(film.shape) < 0.40 * film.size, 255, film), ""),
        (lambda film: np.where(np.arange(film.size).reshape(film.shape) < 0.50 * film.size, 255, film), "saturated"),
        (lambda film: np.where(np.arange(film.size).reshape(film.shape) < 0.60 * film.size, 0, film), ""),
        (lambda film: np.where(np.arange(film.size).reshape(film.shape) < 0.80 * film.size, 0, film), "underexposed"),
        (lambda film: film // 8 * 8, ""),
        (lambda film: film // 32 * 32, "few_levels"),
        (lambda film: 100 + film // 64, "blank"),
        (lambda film: film[:63], "too_small"),
        (lambda film: np.stack([film] * 3), "too_small"),
    ],
)
def test_the_rules_stay_away_from_what_a_film_may_be(change: Any, reason: str) -> None:
    assert fault_of(np.asarray(change(FILM)).astype(np.uint8))[0] == reason


@pytest.mark.parametrize(
    ("verdict", "case", "counted"),
    [
        (("", 0, False), {}, ["right"]),
        (("", 90, False), {}, ["wrong"]),
        (("child", 0, False), {}, ["refused"]),
        (("", 90, False), {"turned": 90}, ["right"]),
        (("", 270, False), {"turned": 90}, ["wrong"]),
        (("", 90, True), {"turned": 90}, ["wrong"]),
        (("", 0, False), {"turned": 90}, ["missed"]),
        (("turned", 90, False), {"turned": 90}, ["refused"]),
        (("", 0, True), {"inverted": True}, ["right"]),
        (("not_chest", 180, True), {"refuse": True}, ["refused", "right"]),
        (("", 0, False), {"refuse": True}, ["missed"]),
        (("", 180, False), {"refuse": True}, ["wrong"]),
    ],
)
def test_outcomes_are_counted_as_the_card_says(verdict: Any, case: dict[str, Any], counted: list[str]) -> None:
    reason, turned, inverted = verdict
    assert list(_outcome(Verdict(reason, turned, inverted, {}), Case("group", "kind", FILM, **case))) == counted


def test_the_card_that_ships_is_about_the_weights_that_ship(tmp_path: Any) -> None:
    from models.gate import DEFAULT_GATE

    told = json.loads((DEFAULT_GATE / "docs" / "evaluation.json").read_text())
    assert told["weights_sha256"] == load_gate().weights_sha256
    report = GateReport(**{**told, "table": tuple(Row(**row) for row in told["table"])})
    good = [row for row in report.table if row.kind.startswith("good film")]
    assert sum(row.images for row in good) > 1000
    assert sum(row.wrong for row in good) == 0
    for row in report.table:
        assert all(0 <= getattr(row, name) <= row.images for name in COUNTED)

    shutil.copytree(DEFAULT_GATE, tmp_path / "gate")
    command = "sangloc gate evaluate ../shared/cxr/manifest.csv --others ../shared/dicom"
    written = write_gate_card(tmp_path / "gate", report, command).read_text("utf-8")
    assert written == (DEFAULT_GATE / "docs" / "README.md").read_text("utf-8")
