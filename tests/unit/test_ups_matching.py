"""Moments of DT, ranges of them, and the matching of workitems (PS3.5 6.2, PS3.4 C.2.2.2)."""

from __future__ import annotations

import contextlib
import datetime as dt
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from workitems import code, workitem

from pacs.ups.attributes import columns_of, date_time, first, inputs, items, moment
from pacs.ups.matching import criteria_of, fits, matches, read_filter
from storage.errors import InvalidInput
from storage.workitems import OURS

UTC = dt.UTC


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("20260102101500.123456+0000", dt.datetime(2026, 1, 2, 10, 15, 0, 123456, UTC)),
        ("20260102101500.5-0530", dt.datetime(2026, 1, 2, 15, 45, 0, 500000, UTC)),
        ("202601021015+0700", dt.datetime(2026, 1, 2, 3, 15, tzinfo=UTC)),
        ("2026+0000", dt.datetime(2026, 1, 1, tzinfo=UTC)),
        ("20260102101560+0000", dt.datetime(2026, 1, 2, 10, 15, 59, tzinfo=UTC)),
    ],
)
def test_moments(text: str, at: dt.datetime) -> None:
    assert moment(text) == at


def test_a_moment_without_offset_is_local() -> None:
    assert moment("20260102101500") == dt.datetime(2026, 1, 2, 10, 15).astimezone()


@pytest.mark.parametrize(
    "text", ["", "now", "20261301", "20260230", "2026010225", "20260102101500+99", "-", "１２３４"]
)
def test_no_moments(text: str) -> None:
    with pytest.raises(InvalidInput):
        moment(text)


@given(st.text(alphabet="0123456789.+- x", max_size=30))
def test_any_text_is_a_moment_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        assert moment(text).tzinfo is not None


@given(st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2100, 1, 1), timezones=st.just(UTC)))
def test_what_is_written_is_read(at: dt.datetime) -> None:
    assert moment(date_time(at)) == at


MOMENTS = st.datetimes(dt.datetime(2020, 1, 1), dt.datetime(2030, 1, 1), timezones=st.just(UTC))


@given(MOMENTS, st.none() | MOMENTS, st.none() | MOMENTS)
def test_ranges(at: dt.datetime, low: dt.datetime | None, high: dt.datetime | None) -> None:
    if low is None and high is None:
        return
    model = workitem(t00404005={"vr": "DT", "Value": [date_time(at)]})
    asked = f"{date_time(low) if low else ''}-{date_time(high) if high else ''}"
    found = matches(model, [("ScheduledProcedureStepStartDateTime", asked)])
    assert found == ((low is None or low <= at) and (high is None or at <= high))


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("20260102", True),
        ("202601", True),
        ("2026", True),
        ("2025", False),
        ("202601021015", True),
        ("20260102101501", False),
        ("20260102101500-0000", True),  # an offset of nothing, no range
        ("20260102101500-0100", False),
        ("20260101-20260103", True),
        ("2025-2027", True),
        ("20260102101500+0000-20260102101600+0000", True),
        ("20260102101500-0000-20260102101600-0000", True),
    ],
)
def test_a_moment_of_less_precision_is_a_range(asked: str, found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pacs.ups.attributes._zoned", _utc)
    model = workitem(t00404005={"vr": "DT", "Value": ["20260102101500"]})
    assert matches(model, [("ScheduledProcedureStepStartDateTime", asked)]) == found


def _utc(at: dt.datetime, zone: str | None) -> dt.datetime:
    """As the code, on a server whose local time is UTC."""
    if not zone:
        return at.replace(tzinfo=UTC)
    offset = dt.timedelta(hours=int(zone[1:3]), minutes=int(zone[3:]))
    return at.replace(tzinfo=dt.timezone(-offset if zone[0] == "-" else offset))


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("PatientName", "nguyen*", True),
        ("PatientName", "Nguyễn^An", True),
        ("PatientName", "tran*", False),
        ("PatientID", "", True),
        ("PatientID", "P?", True),
        ("PatientID", "Q*", False),
        ("AccessionNumber", "A1", False),
        ("ScheduledWorkitemCodeSequence.CodeValue", "REPORT", True),
        ("ScheduledWorkitemCodeSequence.CodeValue", "X", False),
        ("ScheduledWorkitemCodeSequence.CodeValue", "", True),
        ("InputInformationSequence.StudyInstanceUID", "1.2.3", True),
        ("InputInformationSequence.ReferencedSOPSequence.ReferencedSOPInstanceUID", "1.2.3.4", True),
        ("InputInformationSequence.ReferencedSOPSequence.ReferencedSOPInstanceUID", "1.2.3.5", False),
        ("OutputInformationSequence.StudyInstanceUID", "1.2.3", False),
    ],
)
def test_keys(name: str, value: str, found: bool) -> None:
    model = workitem("1.2.3", instances=("1.2.3.4",))
    assert fits(model, read_filter([(name, value)]).keys) == found


def test_what_an_index_can_tell() -> None:
    asked = read_filter(
        [
            ("ProcedureStepState", "SCHEDULED,IN PROGRESS"),
            ("PatientID", "P1"),
            ("InputInformationSequence.StudyInstanceUID", "1.2.3"),
            ("SOPInstanceUID", "1.5"),
        ]
    )
    found = criteria_of(asked.keys)
    assert found.states == ["SCHEDULED", "IN PROGRESS"]
    assert (found.patient_id, found.study_uids, found.workitem_uids) == ("P1", ["1.2.3"], ["1.5"])
    vague = criteria_of(read_filter([("PatientID", "P*"), ("ProcedureStepState", "")]).keys)
    assert (vague.patient_id, vague.states, vague.study_uids) == (None, None, None)


def test_columns() -> None:
    found = columns_of(workitem("1.2.4", "1.2.3", analysis=True))
    assert (found.performer, found.study_uids, found.ready) == (OURS, ["1.2.3", "1.2.4"], True)
    assert found.start_at == dt.datetime(2026, 1, 2, 3, 15, tzinfo=UTC)
    assert found.expires_at is None
    other = columns_of(workitem(t00404018={"vr": "SQ", "Value": [code("CXR-TRIAGE", "99OTHER")]}))
    assert other.performer == ""


def test_values_that_are_not_there() -> None:
    model: dict[str, Any] = {"00100020": {"vr": "LO"}, "00404021": {"vr": "SQ", "Value": [{}, None]}}
    assert first(model, "00100020") == first(model, "00100010") == ""
    assert items(model, "00404021") == [{}, {}]
    assert list(inputs(model)) == []
