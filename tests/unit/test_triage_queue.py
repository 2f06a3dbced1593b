"""The queue under arbitrary arrivals, scores and reading speed: who can overtake whom, and how late it can get.

The queue is simulated by the rules alone (a reader takes the open study that is due first), with scores that arrive
some time after the study, and the claims of `inference.triage` are checked on what happened.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from inference.triage import Priority, TriagePolicy, Waits, arrival, due_at

PRIORITIES: list[Priority] = ["stat", "urgent", "routine"]
START = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
POLICY = TriagePolicy(
    waits=Waits(stat_minutes=15, urgent_minutes=60, routine_minutes=240), high_risk_minutes=30, flagged_minutes=90
)


@dataclass
class Study:
    """Minutes since START; `number` stands for the study UID, which breaks ties as in the worklist."""

    number: int
    arrived: float
    priority: Priority
    probability: float | None
    scored: float  # when the model has read it; infinite without a model
    read: float = -1.0
    due_when_read: float = -1.0

    @property
    def latest(self) -> float:
        return _minutes(arrival(POLICY, self.priority, "", START + dt.timedelta(minutes=self.arrived)).latest_due_at)

    def due(self, now: float) -> float:
        known = self.probability if now >= self.scored else None
        at = START + dt.timedelta(minutes=self.arrived)
        return _minutes(due_at(POLICY, self.priority, "", at, probability=known, threshold=0.5))


def _minutes(at: dt.datetime) -> float:
    return (at - START).total_seconds() / 60


@st.composite
def queues(draw: st.DrawFn) -> list[Study]:
    drawn = st.tuples(
        st.integers(0, 400),
        st.sampled_from(PRIORITIES),
        st.none() | st.floats(0, 1),
        st.just(float("inf")) | st.integers(0, 60),
    )
    rows = draw(st.lists(drawn, min_size=1, max_size=25))
    return [Study(i, float(at), priority, p, at + delay) for i, (at, priority, p, delay) in enumerate(rows)]


def read_all(studies: list[Study], minutes_each: float) -> list[Study]:
    """One reader, who always takes the first of the list; the studies in the order in which they were taken."""
    now, order, unread = 0.0, [], list(studies)
    while unread:
        waiting = [study for study in unread if study.arrived <= now]
        if not waiting:
            now = min(study.arrived for study in unread)
            continue
        first = min(waiting, key=lambda study: (study.due(now), study.number))
        first.read, first.due_when_read = now, first.due(now)
        order.append(first)
        unread.remove(first)
        now += minutes_each
    return order


@given(queues(), st.floats(0.5, 60))
def test_a_study_is_overtaken_only_by_studies_that_are_due_before_it(studies: list[Study], minutes_each: float) -> None:
    for taken in read_all(studies, minutes_each):
        passed_over = [s for s in studies if s.arrived <= taken.read < s.read]
        assert all(taken.due_when_read <= s.due(taken.read) for s in passed_over)


@given(queues(), st.floats(0.5, 60))
def test_beyond_its_maximum_wait_nothing_that_came_due_later_goes_first(
    studies: list[Study], minutes_each: float
) -> None:
    for taken in read_all(studies, minutes_each):
        overdue = [s for s in studies if s.arrived <= taken.read < s.read and s.latest <= taken.read]
        assert all(taken.due_when_read <= s.latest for s in overdue)


@given(queues(), st.floats(0.5, 60))
def test_without_a_model_each_priority_is_read_in_arrival_order(studies: list[Study], minutes_each: float) -> None:
    for study in studies:
        study.scored = float("inf")
    order = read_all(studies, minutes_each)
    for priority in ("stat", "urgent", "routine"):
        arrivals = [(s.arrived, s.number) for s in order if s.priority == priority]
        assert arrivals == sorted(arrivals)


@settings(max_examples=150)
@given(queues(), st.floats(0.5, 60))
def test_nobody_is_late_by_more_than_the_readers_lack(studies: list[Study], minutes_each: float) -> None:
    """The bound of earliest-deadline-first: lateness <= the largest excess of demand over time, and one reading.

    Demand of a span is the work that comes up in it and is due in it: a study counts from its arrival to its latest due
    time, and where the model brings it forward also from its score to its earlier due time.
    """
    read_all(studies, minutes_each)
    spans = [(s.arrived, s.latest) for s in studies]
    spans += [(s.scored, s.due(s.scored)) for s in studies if s.scored < float("inf")]
    excess = 0.0
    for begin in {begin for begin, _ in spans}:
        for end in {end for _, end in spans if end > begin}:
            demand = sum(
                minutes_each
                for s in studies
                if (s.arrived >= begin and s.latest <= end) or (begin <= s.scored < 1e9 and s.due(s.scored) <= end)
            )
            excess = max(excess, demand - (end - begin))
    worst = max(s.read + minutes_each - s.latest for s in studies)
    assert worst <= excess + minutes_each + 1e-6


def test_a_stream_of_high_risk_studies_cannot_hold_a_routine_study_up_for_ever() -> None:
    """One routine study, then a flagged one every reading minute: the reader is never free, yet its turn comes."""
    routine = Study(0, 0.0, "routine", None, float("inf"))
    flagged = [Study(i, float(i), "routine", 0.99, float(i)) for i in range(1, 400)]
    first = Study(500, -1.0, "stat", None, float("inf"))
    read_all([first, routine, *flagged], 1.0)
    assert routine.read <= routine.latest + 1
    assert flagged[0].read < routine.read
