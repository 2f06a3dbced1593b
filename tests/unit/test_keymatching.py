"""Matching of keys against attributes at hand (PS3.4 C.2.2.2), and what a modality worklist query becomes."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs.identifiers import Element
from pacs.keymatching import date_span, matches, name_words, project, time_span
from pacs.modalityworklist import wanted
from storage import names
from storage.errors import InvalidInput


def match(vr: str, asked: Any, found: Any) -> bool:
    asked, found = (value if isinstance(value, tuple) else (value,) for value in (asked, found))
    return matches(Element(vr, asked), Element(vr, found))


@pytest.mark.parametrize(
    ("vr", "asked", "found", "result"),
    [
        ("SH", "A1", "A1", True),
        ("SH", "A1", "a1", False),
        ("SH", "A*", "A1", True),
        ("SH", "A?", "A1", True),
        ("SH", "A?", "A12", False),
        ("SH", "*2*", "A12", True),
        ("SH", "A.", "A1", False),  # a dot is a dot
        ("SH", "*", "", True),
        ("CS", ("CT", "MR"), "MR", True),
        ("UI", ("1.2", "1.3"), "1.3", True),
        ("UI", "1.2", "1.23", False),
        ("PN", "nguyen*", "Nguyễn^Văn An", True),
        ("PN", "Nguyễn^Văn An", "NGUYEN^VAN AN", True),
        ("PN", "nguyen van an", "Nguyễn^Văn An", True),
        ("PN", "van*", "Nguyễn^Văn An", False),
        ("PN", "*van*", "Nguyễn^Văn An", True),
        ("PN", "đ?c*", "Đức^Lê", True),
        ("PN", "阮*", "Nguyen^An=阮^安", True),
        ("PN", "=阮*", "Nguyen^An=阮^安", True),
        ("PN", "Lê", "Lê^An", False),
        ("DA", "19610430", "19610430", True),
        ("DA", "19610401-19610430", "19610430", True),
        ("DA", "-19610429", "19610430", False),
        ("DA", "19610501-", "19610430", False),
        ("DA", "19610430", "", False),
        ("TM", "10-11", "103000", True),
        ("TM", "1030", "103059", True),
        ("TM", "1031-", "1030", False),
        ("US", 3, 3, True),
        ("DS", "61.50", "61.5", True),
        ("DS", "x", "61.5", False),
    ],
)
def test_matching(vr: str, asked: Any, found: Any, result: bool):
    assert match(vr, asked, found) is result


def test_a_key_without_a_value_matches_everything():
    assert matches(Element("LO"), None)
    assert matches(Element("SQ", ({},)), None)
    assert matches(Element("SQ", ({1: Element("LO")},)), Element("SQ"))
    assert not matches(Element("LO", ("x",)), None)


def test_sequences_match_by_one_item():
    items = ({1: Element("SH", ("a",)), 2: Element("SH", ("b",))}, {1: Element("SH", ("c",)), 2: Element("SH", ("d",))})
    assert matches(Element("SQ", ({1: Element("SH", ("c",)), 2: Element("SH", ("d",))},)), Element("SQ", items))
    assert not matches(Element("SQ", ({1: Element("SH", ("a",)), 2: Element("SH", ("d",))},)), Element("SQ", items))


@pytest.mark.parametrize("value", ["2026", "20261301", "20260230", "x", "20260101-2", "2026-01-01", "٢٠٢٦٠١٠١"])
def test_dates_that_are_none(value: str):
    with pytest.raises(InvalidInput):
        date_span(value)


@pytest.mark.parametrize("value", ["1", "2460", "106", "1060", "10:3x", "103000.1234567", "25"])
def test_times_that_are_none(value: str):
    with pytest.raises(InvalidInput):
        time_span(value)


@given(st.text(max_size=20))
def test_any_date_or_time_is_a_span_or_refused(text: str):
    for read in (date_span, time_span):
        try:
            span = read(text)
        except InvalidInput:
            continue
        assert len(span) == 2


_WORDS = st.lists(st.sampled_from(["nguyen", "Văn", "Đức", "lê", "An", "o'brien"]), min_size=1, max_size=4)


@given(_WORDS, st.data())
def test_what_is_searched_by_index_never_loses_a_match(words: list[str], data: st.DataObject):
    """Every word that `name_words` asks for is the beginning of a word of each name that matches."""
    name = "^".join(words)
    pattern = "".join(data.draw(st.sampled_from([c, c, c, "?", "*"])) for c in name)
    if match("PN", pattern, name):
        known = names.words(name)
        assert all(any(word.startswith(asked) for word in known) for asked in name_words(pattern)), pattern


def test_words_of_a_pattern():
    assert name_words("Nguyễn^Văn*") == ["nguyen", "van"]
    assert name_words("*guyen Van?An") == ["van"]
    assert name_words("") == name_words("*") == []


def test_answers_hold_what_was_asked_for():
    found = {1: Element("LO", ("a",)), 2: Element("SQ", ({3: Element("SH", ("b",)), 4: Element("SH", ("c",))},))}
    assert project({1: Element("LO"), 2: Element("SQ", ({4: Element("SH")},))}, found) == (
        {1: Element("LO", ("a",)), 2: Element("SQ", [{4: Element("SH", ("c",))}])},
        False,
    )
    assert project({2: Element("SQ")}, found) == ({2: found[2]}, False)
    assert project({9: Element("LO", ("x",))}, found) == ({9: Element("LO")}, True)
    assert project({2: Element("SQ", ({9: Element("LO")},))}, found)[1]


# ---- the modality worklist


def step_keys(date: str = "", time: str = "", **other: str) -> dict[int, Element]:
    tags = {"ae": (0x00400001, "AE"), "modality": (0x00080060, "CS")}
    item = {0x00400002: Element("DA", (date,) if date else ()), 0x00400003: Element("TM", (time,) if time else ())}
    item |= {tags[name][0]: Element(tags[name][1], tuple(value.split("\\"))) for name, value in other.items()}
    return {0x00400100: Element("SQ", (item,))}


@pytest.mark.parametrize(
    ("date", "time", "first", "last"),
    [
        ("", "", None, None),
        ("20261122", "", "2026-11-22T00:00:00", "2026-11-22T23:59:59.999999"),
        ("20261122-20261124", "1000-1800", "2026-11-22T10:00:00", "2026-11-24T18:00:59.999999"),  # one period (K.6-1)
        ("20261122-", "10-", "2026-11-22T10:00:00", None),
        ("-20261122", "-1800", None, "2026-11-22T18:00:59.999999"),
        ("20261122", "103000", "2026-11-22T10:30:00", "2026-11-22T10:30:00.999999"),
    ],
)
def test_start_date_and_time_are_one_period(date: str, time: str, first: str | None, last: str | None):
    found = wanted(step_keys(date, time))
    assert (found.first, found.last) == tuple(
        dt.datetime.fromisoformat(each) if each else None for each in (first, last)
    )


def test_what_the_database_is_asked():
    keys = step_keys(ae="CT1", modality="CT\\MR") | {
        0x00100010: Element("PN", ("Lê*",)),
        0x00100020: Element("LO", ("BN1",)),
        0x00080050: Element("SH", ("A*",)),
        0x0020000D: Element("UI", ("1.2", "1.3")),
    }
    found = wanted(keys)
    assert (found.ae_title, list(found.modalities), list(found.name_words)) == ("CT1", ["CT", "MR"], ["le"])
    assert (found.patient_id, found.accession_number, list(found.study_uids)) == ("BN1", None, ["1.2", "1.3"])


@pytest.mark.parametrize(
    "keys",
    [
        step_keys("", "1000"),
        step_keys("2026"),
        {0x00400100: Element("SQ", ({}, {}))},
    ],
)
def test_queries_that_make_no_sense(keys: dict[int, Element]):
    with pytest.raises(InvalidInput):
        wanted(keys)
