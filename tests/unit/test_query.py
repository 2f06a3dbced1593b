"""From keys as text to what is looked for (PS3.4 C.2.2.2)."""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs.identifiers import Element, vr_of
from pacs.query import Options, parse, require_unique_keys, zone_of
from storage.attributes import ATTRIBUTES, BY_KEYWORD, Level
from storage.criteria import Dates, Empty, Items, Moments, Names, Numbers, Patterns, Texts, Times
from storage.errors import InvalidIdentifier, InvalidInput

ALL = Options(relational=True, combined=True, fuzzy=True, empty_values=True)


def keys(**given: Any) -> dict[int, Element]:
    """Elements by keyword; a text with backslashes has several values."""
    found = {}
    for keyword, value in given.items():
        tag = BY_KEYWORD[keyword].tag
        values = value if isinstance(value, list) else value.split("\\") if value else []
        found[tag] = Element(vr_of(tag), values)
    return found


def matched(level: Level = Level.STUDY, options: Options = ALL, **given: str | list[Any]) -> dict[str, Any]:
    return {c.attribute.keyword: c.match for c in parse(keys(**given), level, options).query.conditions}


@pytest.mark.parametrize(
    ("keyword", "value", "match"),
    [
        ("PatientID", "P1", Texts(("P1",))),
        ("PatientID", "P1\\P2", Texts(("P1", "P2"))),
        ("PatientID", "P*", Patterns(("P*",))),
        ("PatientID", "P?\\Q", Patterns(("P?", "Q"))),
        ("PatientID", '""', Empty()),
        ("PatientID", "", None),
        ("PatientID", "*", None),
        ("PatientID", "**", None),
        ("StudyInstanceUID", "1.2\\1.3", Texts(("1.2", "1.3"))),
        ("StudyInstanceUID", "*", None),
        ("PatientName", "NGUYỄN^VĂN*", Names(("NGUYỄN^VĂN*",), fuzzy=True)),
        ("StudyDate", "20260102", Dates(dt.date(2026, 1, 2), dt.date(2026, 1, 2))),
        ("StudyDate", "2026.01.02", Dates(dt.date(2026, 1, 2), dt.date(2026, 1, 2))),
        ("StudyDate", "20260102-", Dates(dt.date(2026, 1, 2), None)),
        ("StudyDate", "-20260102", Dates(None, dt.date(2026, 1, 2))),
        ("StudyDate", "20251231 - 20260102", Dates(dt.date(2025, 12, 31), dt.date(2026, 1, 2))),
        ("StudyTime", "10", Times(dt.time(10), dt.time(10, 59, 59, 999999))),
        ("StudyTime", "1015", Times(dt.time(10, 15), dt.time(10, 15, 59, 999999))),
        ("StudyTime", "101530.5", Times(dt.time(10, 15, 30, 500000), dt.time(10, 15, 30, 599999))),
        ("StudyTime", "10:15:30-1100", Times(dt.time(10, 15, 30), dt.time(11, 0, 59, 999999))),
        ("StudyTime", "-12", Times(dt.time.min, dt.time(12, 59, 59, 999999))),
        ("StudyTime", "12-", Times(dt.time(12), dt.time.max)),
        ("StudyTime", "235960", Times(dt.time(23, 59, 59), dt.time(23, 59, 59, 999999))),
        ("PatientAge", "060Y", Texts(("060Y",))),
    ],
)
def test_each_kind_of_matching(keyword: str, value: str, match: Any):
    assert matched(**{keyword: value}) == ({} if match is None else {keyword: match})


def test_numbers_and_other_levels():
    assert matched(Level.SERIES, SeriesNumber="1\\02") == {"SeriesNumber": Numbers((1, 2))}
    assert matched(Level.SERIES, SeriesNumber=[7]) == {"SeriesNumber": Numbers((7,))}
    assert matched(Level.STUDY, Modality="CT") == {"Modality": Texts(("CT",))}  # relational


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyDate", "2026"),
        ("StudyDate", "20260230"),
        ("StudyDate", "20260102-20260101"),
        ("StudyDate", "20260101-20260102-20260103"),
        ("StudyDate", "20260101\\20260102"),
        ("StudyDate", "-"),
        ("StudyDate", "２０２６０１０１"),
        ("StudyTime", "24"),
        ("StudyTime", "1"),
        ("StudyTime", "10:15-"[:5] + "x"),
        ("StudyTime", "1015309"),
        ("StudyInstanceUID", "1.2.x"),
        ("StudyInstanceUID", "1.2.*"),
        ("StudyInstanceUID", "1" * 65),
        ("SeriesNumber", "one"),
        ("SeriesNumber", "1-2"),
        ("PatientID", "x" * 257),
        ("PatientID", "\\".join(["x"] * 10_001)),
    ],
)
def test_a_malformed_value_is_refused_without_being_repeated(keyword: str, value: str):
    with pytest.raises(InvalidInput, match=keyword) as caught:
        matched(Level.SERIES, **{keyword: value})
    assert value[:65] not in str(caught.value)


@pytest.mark.parametrize("value", [Element("SQ", [{}]), Element("SQ", [])], ids=["an item", "no item"])
def test_a_sequence_is_no_text(value: Element):
    with pytest.raises(InvalidInput, match="PatientID"):
        parse({0x00100020: value}, Level.STUDY, ALL)


def test_items_of_a_sequence():
    def others(*items: dict[int, Element]) -> Any:
        return parse({0x00101002: Element("SQ", items)}, Level.STUDY, ALL)

    inner = {0x00100020: Element("LO", ("OLD*",))}
    assert others(inner).query.conditions[0].match == Items((("PatientID", Patterns(("OLD*",))),))
    assert others(inner).unsupported == ()
    assert others({**inner, 0x00100022: Element("CS", ("TEXT",))}).unsupported == (0x00101002,)
    assert others({0x00100020: Element("LO")}).query.conditions == ()
    assert others().wanted[1].keyword == "OtherPatientIDsSequence"
    with pytest.raises(InvalidInput, match="one item"):
        others(inner, inner)


def test_what_is_not_supported_is_told():
    given = keys(PatientName="A*", NumberOfStudyRelatedInstances="5", Modality="CT")
    given |= {
        0x00080055: Element("AE", ("X",)),
        0x00080052: Element("CS", ("STUDY",)),
        0x00080005: Element("CS", ("",)),
    }
    parsed = parse(given, Level.STUDY, Options())
    assert parsed.unsupported == (0x00201208, 0x00080060, 0x00080055)
    assert [one.keyword for one in parsed.wanted] == [
        "StudyInstanceUID",
        "PatientName",
        "NumberOfStudyRelatedInstances",
    ]
    assert parsed.query.conditions[0].match == Names(("A*",), fuzzy=False)
    assert len(parsed.query.conditions) == 1


@pytest.mark.parametrize(
    ("date", "time", "first", "last"),
    [
        ("20260105-20260107", "1000-1800", "2026-01-05 10:00", "2026-01-07 18:00:59.999999"),
        ("20260105-20260107", "1800-1000", "2026-01-05 18:00", "2026-01-07 10:00:59.999999"),
        ("20260105-", "1000-", "2026-01-05 10:00", None),
        ("-20260107", "-18", None, "2026-01-07 18:59:59.999999"),
    ],
)
def test_ranges_of_dates_and_times_are_one_range(date: str, time: str, first: str | None, last: str | None):
    match = Moments(*(one and dt.datetime.fromisoformat(one) for one in (first, last)))
    assert matched(StudyDate=date, StudyTime=time) == {"StudyDate": match}
    apart = matched(options=Options(), StudyDate=date, StudyTime=time)
    assert {type(one) for one in apart.values()} == {Dates, Times}


def test_a_single_day_or_time_is_not_combined():
    assert set(matched(StudyDate="20260105", StudyTime="1000-1800")) == {"StudyDate", "StudyTime"}
    assert set(matched(StudyDate="20260105-", StudyTime="10")) == {"StudyDate", "StudyTime"}


@pytest.mark.parametrize(
    ("sent", "minutes"), [("", None), ("+0000", 0), ("+0700", 420), ("-0330", -210), ("+1400", 840), ("-1200", -720)]
)
def test_time_zones(sent: str, minutes: int | None):
    given = keys(TimezoneOffsetFromUTC=sent, StudyDate="20260101")
    assert zone_of(given) == minutes
    parsed = parse(given, Level.STUDY, Options())
    assert parsed.query.zone == minutes
    assert {one.attribute.keyword for one in parsed.query.conditions} == {"StudyDate"}


@pytest.mark.parametrize("sent", ["0700", "+7", "+1500", "-1300", "+0060", "+07:00", "x"])
def test_a_malformed_time_zone(sent: str):
    with pytest.raises(InvalidInput, match="TimezoneOffsetFromUTC"):
        zone_of(keys(TimezoneOffsetFromUTC=sent))


def test_a_hierarchical_query_names_one_entity_of_each_level_above():
    require_unique_keys(keys(StudyInstanceUID="1.2"), Level.SERIES, Level.STUDY)
    require_unique_keys({}, Level.STUDY, Level.STUDY)
    require_unique_keys({}, Level.PATIENT, Level.PATIENT)
    require_unique_keys(keys(PatientID="P", StudyInstanceUID="1", SeriesInstanceUID="2"), Level.IMAGE, Level.PATIENT)
    for missing in ({}, keys(StudyInstanceUID=""), keys(StudyInstanceUID="1.2\\1.3"), keys(StudyInstanceUID="*")):
        with pytest.raises(InvalidIdentifier, match="StudyInstanceUID"):
            require_unique_keys(missing, Level.SERIES, Level.STUDY)
    with pytest.raises(InvalidIdentifier, match="PatientID"):
        require_unique_keys(keys(StudyInstanceUID="1.2"), Level.SERIES, Level.PATIENT)


def test_options_of_a_negotiation():
    assert Options.of(b"") == Options()
    assert Options.of(b"\1\0\1") == Options(relational=True, fuzzy=True)
    assert Options.of(b"\0\1\0\1\0\1\1\1\1") == Options(
        combined=True, zones=True, empty_values=True, multiple_values=True
    )


values = st.one_of(
    st.text(max_size=20), st.from_regex(r"\A[0-9.:*?\-]{0,20}\Z"), st.sampled_from(["*", '""', "20260101-"])
)


@given(
    st.dictionaries(st.sampled_from(ATTRIBUTES), st.lists(values, max_size=3), max_size=5),
    st.sampled_from(list(Level)),
    st.booleans(),
)
def test_any_text_is_understood_or_refused(given_keys: dict[Any, list[str]], level: Level, relational: bool):
    elements = {one.tag: Element(one.vr, values) for one, values in given_keys.items() if one.vr != "SQ"}
    with contextlib.suppress(InvalidInput):
        parsed = parse(elements, level, Options(relational=relational, combined=True, empty_values=True))
        assert {one.attribute.tag for one in parsed.query.conditions} <= elements.keys()
        assert all(one.level <= level for one in parsed.wanted)
