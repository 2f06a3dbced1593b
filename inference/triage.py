"""From what is known about a study to the time by which it is due: pure functions and one table.

    what is known                                     due, after arrival        field of `TriagePolicy`
    ------------------------------------------------  ------------------------  ------------------------
    requested STAT                                    15 minutes at the latest  waits.stat_minutes
    requested urgent                                   1 hour at the latest     waits.urgent_minutes
    requested routine, or nothing                      8 hours at the latest    waits.routine_minutes
    the model flags it, probability at least 0.85     30 minutes at the latest  high_risk_minutes
    the model flags it (at or above the threshold)     2 hours at the latest    flagged_minutes
    the model does not flag it, or has not read it     no change

The earliest of the lines that apply counts. So a model can bring a study forward and can never push one back; a study
without a flag is not called normal, it keeps its place by arrival. The worklist is ordered by due time alone, hence:

* a study can be overtaken only by studies that are due before it, however many others are flagged;
* a study past its maximum wait stands before everything that is due later, flagged or not;
* without a model, studies of one priority and site stand in the order they came.

What is not promised: that everybody is read in time when more is due than readers can read. Then the list is late by as
much as the readers lack, and by no more (`tests/unit/test_triage_queue.py` shows the bound).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

__all__ = ["Arrival", "Priority", "Risk", "TriagePolicy", "Waits", "arrival", "due_at", "reason", "requested", "risk"]

Priority = Literal["stat", "urgent", "routine"]
Risk = Literal["high", "flagged", ""]

# (0040,1003) and (0032,000C) say STAT, HIGH, MEDIUM, ROUTINE, LOW (PS3.4 K.6.1.2); HL7 table 0485 and habit the rest.
_STAT = frozenset({"STAT", "S", "EMERGENCY", "EMERGENT", "CRITICAL", "CAP CUU", "CẤP CỨU"})
_URGENT = frozenset({"URGENT", "HIGH", "ASAP", "A", "PRIORITY", "URG", "KHAN", "KHẨN"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Maximum waits by requested priority, in minutes after arrival."""

    stat_minutes: float = 15.0
    urgent_minutes: float = 60.0
    routine_minutes: float = 480.0

    def __post_init__(self) -> None:
        if not 0 < self.stat_minutes <= self.urgent_minutes <= self.routine_minutes:
            raise ValueError("maximum waits must be positive and grow from STAT over urgent to routine")

    def of(self, priority: Priority) -> dt.timedelta:
        """The maximum wait for one priority."""
        minutes = {"stat": self.stat_minutes, "urgent": self.urgent_minutes, "routine": self.routine_minutes}
        return dt.timedelta(minutes=minutes[priority])


@dataclass(frozen=True, slots=True, kw_only=True)
class TriagePolicy:
    """The table above, as numbers; the defaults are those of the table."""

    waits: Waits = Waits()
    sites: Mapping[str, Waits] = field(default_factory=dict)  # by name of the site, where it has waits of its own
    operating_point: str = "balanced"  # of the bundle: its threshold of 'Abnormal' makes the flag
    site_operating_points: Mapping[str, str] = field(default_factory=dict)  # by name of the site, where it has its own
    high_risk_probability: float = 0.85  # calibrated; a flag at or above it is high risk
    high_risk_minutes: float = 30.0
    flagged_minutes: float = 120.0

    def __post_init__(self) -> None:
        if not 0 < self.high_risk_minutes <= self.flagged_minutes:
            raise ValueError("a high risk must be due no later than a flag, and not before arrival")

    def waits_of(self, site: str) -> Waits:
        """The maximum waits of a site; an unknown site ('') has the general ones."""
        return self.sites.get(site, self.waits)

    def operating_point_of(self, site: str) -> str:
        """Name of the operating point that decides what is flagged at a site; an unknown site has the general one."""
        return self.site_operating_points.get(site, self.operating_point)


class Arrival(NamedTuple):
    """What is settled when a study arrives: it will be due no later than this."""

    priority: Priority
    latest_due_at: dt.datetime


def requested(words: str) -> Priority:
    """The priority that a request asks for, in DICOM's, HL7's or everyday words; anything else is routine."""
    text = " ".join(words.upper().replace("_", " ").split())
    if text in _STAT:
        return "stat"
    return "urgent" if text in _URGENT else "routine"


def arrival(policy: TriagePolicy, words: str, site: str, at: dt.datetime) -> Arrival:
    """Priority and latest due time of a study that arrives at `at` (with a time zone) and asks for `words`."""
    priority = requested(words)
    return Arrival(priority, at + policy.waits_of(site).of(priority))


def risk(policy: TriagePolicy, probability: float | None, threshold: float) -> Risk:
    """The line of the table that a calibrated probability belongs to; '' where the model changes nothing."""
    if probability is None or not probability >= threshold:  # a probability that is no number flags nothing
        return ""
    return "high" if probability >= policy.high_risk_probability else "flagged"


def due_at(
    policy: TriagePolicy,
    priority: Priority,
    site: str,
    arrived_at: dt.datetime,
    *,
    probability: float | None,
    threshold: float,
) -> dt.datetime:
    """When the study is due: never later than its latest due time, earlier where the model flags it.

    Args:
        policy: the table.
        priority: as requested, from `requested`.
        site: name of the site, '' where unknown.
        arrived_at: when the study's first instance arrived, with a time zone.
        probability: calibrated probability of an abnormal film, 0 to 1; None where no model has read it.
        threshold: the site's operating point, 0 to 1; a probability at or above it is a flag.
    """
    latest = arrived_at + policy.waits_of(site).of(priority)
    band = risk(policy, probability, threshold)
    if not band:
        return latest
    minutes = policy.high_risk_minutes if band == "high" else policy.flagged_minutes
    return min(latest, arrived_at + dt.timedelta(minutes=minutes))


def reason(due: dt.datetime, band: Risk, probability: float, findings: Sequence[tuple[str, float, float]]) -> str:
    """One sentence for a person, such as 'due 10:40: likely Effusion, 0.71 (abnormal 0.93)'; '' without a flag.

    Args:
        due: when the study is due; the sentence says it in the time zone of this value.
        band: the line of the table.
        probability: that the film is abnormal, which is what flags it.
        findings: name, probability and threshold of those that are listed; the first is named, as likely only when
            it is more likely than not.
    """
    if not band:
        return ""
    if not findings:
        return f"due {due:%H:%M}: abnormal, {probability:.2f}"
    name, value, _ = findings[0]
    words = f"{'likely' if value >= 0.5 else 'perhaps'} {name.replace('_', ' ')}, {value:.2f}"
    return f"due {due:%H:%M}: {words} (abnormal {probability:.2f})"
