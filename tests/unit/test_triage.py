"""Due times: the table of `inference.triage`, line by line, and what holds for every arrival and score."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.triage import Priority, Risk, TriagePolicy, Waits, arrival, due_at, reason, requested, risk

AT = dt.datetime(2026, 3, 2, 8, 0, tzinfo=dt.UTC)
POLICY = TriagePolicy()

times = st.datetimes(dt.datetime(2020, 1, 1), dt.datetime(2030, 1, 1), timezones=st.just(dt.UTC))
priorities: st.SearchStrategy[Priority] = st.sampled_from(["stat", "urgent", "routine"])
probabilities = st.none() | st.floats(0, 1) | st.just(float("nan"))
minutes = st.floats(0.5, 100_000)


@st.composite
def waits(draw: st.DrawFn) -> Waits:
    stat, urgent, routine = sorted(draw(st.tuples(minutes, minutes, minutes)))
    return Waits(stat_minutes=stat, urgent_minutes=urgent, routine_minutes=routine)


@st.composite
def policies(draw: st.DrawFn) -> TriagePolicy:
    high, flagged = sorted(draw(st.tuples(minutes, minutes)))
    return TriagePolicy(
        waits=draw(waits()),
        sites=draw(st.dictionaries(st.sampled_from(["A", "B"]), waits())),
        high_risk_probability=draw(st.floats(0, 1)),
        high_risk_minutes=high,
        flagged_minutes=flagged,
    )


@pytest.mark.parametrize(
    ("words", "priority"),
    [
        ("STAT", "stat"),
        (" stat ", "stat"),
        ("Emergency", "stat"),
        ("cấp cứu", "stat"),
        ("S", "stat"),
        ("HIGH", "urgent"),
        ("URGENT", "urgent"),
        ("ASAP", "urgent"),
        ("khẩn", "urgent"),
        ("MEDIUM", "routine"),
        ("ROUTINE", "routine"),
        ("LOW", "routine"),
        ("R", "routine"),
        ("", "routine"),
        ("no idea", "routine"),
    ],
)
def test_words_of_a_request_become_one_of_three_priorities(words: str, priority: str) -> None:
    assert requested(words) == priority


@pytest.mark.parametrize(
    ("priority", "probability", "after_minutes"),
    [
        ("stat", None, 15),
        ("urgent", None, 60),
        ("routine", None, 480),
        ("routine", 0.10, 480),
        ("routine", 0.50, 120),
        ("routine", 0.84, 120),
        ("routine", 0.85, 30),
        ("urgent", 0.50, 60),
        ("urgent", 0.99, 30),
        ("stat", 0.99, 15),
        ("stat", 0.10, 15),
    ],
)
def test_every_line_of_the_table(priority: Priority, probability: float | None, after_minutes: int) -> None:
    due = due_at(POLICY, priority, "", AT, probability=probability, threshold=0.5)
    assert due == AT + dt.timedelta(minutes=after_minutes)


def test_the_table_in_the_docstring_is_the_default_policy() -> None:
    import inference.triage

    text = " ".join((inference.triage.__doc__ or "").split())
    for line in (
        f"requested STAT {POLICY.waits.stat_minutes:g} minutes",
        f"requested urgent {POLICY.waits.urgent_minutes / 60:g} hour ",
        f"requested routine, or nothing {POLICY.waits.routine_minutes / 60:g} hours",
        f"probability at least {POLICY.high_risk_probability} {POLICY.high_risk_minutes:g} minutes",
        f"(at or above the threshold) {POLICY.flagged_minutes / 60:g} hours",
    ):
        assert line in text


def test_a_site_has_waits_of_its_own() -> None:
    policy = TriagePolicy(sites={"Huế": Waits(stat_minutes=5, urgent_minutes=10, routine_minutes=20)})
    assert arrival(policy, "", "Huế", AT) == ("routine", AT + dt.timedelta(minutes=20))
    assert arrival(policy, "", "elsewhere", AT) == ("routine", AT + dt.timedelta(minutes=480))
    assert due_at(policy, "routine", "Huế", AT, probability=0.99, threshold=0.5) == AT + dt.timedelta(minutes=20)


def test_a_threshold_above_the_high_risk_probability_rules() -> None:
    assert risk(POLICY, 0.9, 0.95) == ""
    assert risk(POLICY, 0.95, 0.95) == "high"


@pytest.mark.parametrize(
    ("band", "findings", "sentence"),
    [
        ("high", [("Mass", 0.5, 0.1), ("Effusion", 0.9, 0.5)], "due 10:40: likely Mass, 0.50 (abnormal 0.88)"),
        ("flagged", [("Lung_Mass", 0.31, 0.2)], "due 10:40: perhaps Lung Mass, 0.31 (abnormal 0.88)"),
        ("flagged", [], "due 10:40: abnormal, 0.88"),
        ("", [("Pneumothorax", 0.9, 0.2)], ""),
    ],
)
def test_the_reason_names_time_and_finding_and_claims_nothing_without_a_flag(
    band: Risk, findings: list[tuple[str, float, float]], sentence: str
) -> None:
    due = dt.datetime(2026, 3, 2, 10, 40, tzinfo=dt.UTC)
    assert reason(due, band, 0.88, findings) == sentence


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Waits(stat_minutes=0),
        lambda: Waits(stat_minutes=90, urgent_minutes=60),
        lambda: Waits(urgent_minutes=float("nan")),
        lambda: TriagePolicy(high_risk_minutes=180, flagged_minutes=120),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        wrong()  # type: ignore[operator]


@st.composite
def cases(draw: st.DrawFn) -> tuple[TriagePolicy, Priority, str, dt.datetime]:
    return draw(policies()), draw(priorities), draw(st.sampled_from(["A", "B", ""])), draw(times)


@given(cases(), probabilities, st.floats(0, 1))
def test_a_model_never_delays(
    case: tuple[TriagePolicy, Priority, str, dt.datetime], probability: float | None, threshold: float
) -> None:
    policy, priority, site, at = case
    latest = arrival(policy, priority, site, at).latest_due_at
    assert at < due_at(policy, priority, site, at, probability=probability, threshold=threshold) <= latest


@given(cases(), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_probability_is_due_no_later(
    case: tuple[TriagePolicy, Priority, str, dt.datetime], one: float, other: float, threshold: float
) -> None:
    lower, higher = sorted((one, other))
    later = due_at(*case, probability=lower, threshold=threshold)
    assert due_at(*case, probability=higher, threshold=threshold) <= later


@given(cases(), st.lists(times, min_size=2, unique=True))
def test_without_a_model_one_priority_and_site_stands_in_arrival_order(
    case: tuple[TriagePolicy, Priority, str, dt.datetime], arrivals: list[dt.datetime]
) -> None:
    policy, priority, site, _ = case
    by_due = sorted(arrivals, key=lambda at: due_at(policy, priority, site, at, probability=None, threshold=0.5))
    assert by_due == sorted(arrivals)
