"""Parameters of QIDO-RS (PS3.18 8.3.4)."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs.identifiers import Element
from pacs.query_parameters import read
from storage.errors import InvalidInput


@pytest.mark.parametrize(
    ("name", "value", "tag", "element"),
    [
        ("PatientID", "A", 0x00100020, Element("LO", ("A",))),
        ("00100020", "A", 0x00100020, Element("LO", ("A",))),
        ("0020000d", "1.2,1.3", 0x0020000D, Element("UI", ("1.2", "1.3"))),
        ("StudyInstanceUID", "1.2\\1.3", 0x0020000D, Element("UI", ("1.2", "1.3"))),
        ("ModalitiesInStudy", "CT, MR", 0x00080061, Element("CS", ("CT", "MR"))),
        ("PatientName", "Nguyen, An", 0x00100010, Element("PN", ("Nguyen, An",))),
        ("PatientComments", "a\\b", 0x00104000, Element("LT", ("a\\b",))),
        ("PatientID", "", 0x00100020, Element("LO", ("",))),
        ("00091001", "x", 0x00091001, Element("UN", ("x",))),
        ("OtherPatientIDsSequence", "", 0x00101002, Element("SQ", [{}])),
        ("OtherPatientIDsSequence.PatientID", "A", 0x00101002, Element("SQ", [{0x00100020: Element("LO", ("A",))}])),
        ("00101002.00100020", "A", 0x00101002, Element("SQ", [{0x00100020: Element("LO", ("A",))}])),
    ],
)
def test_keys(name: str, value: str, tag: int, element: Element):
    assert read([(name, value)]).keys == {tag: element}


def test_a_name_given_twice_is_a_list_and_a_path_has_one_item():
    asked = read(
        [
            ("StudyInstanceUID", "1.2"),
            ("0020000D", "1.3"),
            ("OtherPatientIDsSequence.PatientID", "A"),
            ("OtherPatientIDsSequence.TypeOfPatientID", "TEXT"),
            ("OtherPatientIDsSequence", ""),
        ]
    )
    assert asked.keys[0x0020000D].values == ("1.2", "1.3")
    (item,) = asked.keys[0x00101002].values
    assert item == {0x00100020: Element("LO", ("A",)), 0x00100022: Element("CS", ("TEXT",))}


def test_the_other_parameters():
    asked = read(
        [
            ("limit", "10"), ("offset", "5"), ("fuzzymatching", "true"), ("emptyvaluematching", "true"),
            ("multiplevaluematching", "false"), ("includefield", "PatientID,00081030"), ("includefield", "all"),
            ("accept", "application/dicom+json"), ("charset", "utf-8"),
        ]
    )  # fmt: skip
    assert (asked.limit, asked.offset, asked.fuzzy, asked.empty_values, asked.multiple_values) == (
        10,
        5,
        True,
        True,
        False,
    )
    assert (asked.include, asked.include_all, asked.keys) == ({0x00100020, 0x00081030}, True, {})
    assert read([]).limit is None


@pytest.mark.parametrize(
    "parameter",
    [
        ("PatientNam", "A"), ("", "A"), ("patientname", "A"), ("1234567", "A"), ("1234567g", "A"), ("a" * 5000, "A"),
        ("limit", "-1"), ("limit", "1.5"), ("limit", ""), ("offset", "٣"), ("limit", "9" * 20),
        ("fuzzymatching", "TRUE"),
        ("includefield", "Nothing"), ("OtherPatientIDsSequence", "A"), ("a.b.c.d.e", "A"), ("PatientID.", "A"),
        (".PatientID", "A"),
    ],
)  # fmt: skip
def test_what_cannot_be_understood(parameter: tuple[str, str]):
    with pytest.raises(InvalidInput) as caught:
        read([parameter])
    assert len(str(caught.value)) < 200


def test_there_is_an_end_to_keys():
    with pytest.raises(InvalidInput, match="200"):
        read([(f"0009{n:04X}", "1") for n in range(201)])


names = st.one_of(
    st.text(max_size=12), st.from_regex(r"\A[0-9A-Fa-f]{8}(\.[0-9A-F]{8})*\Z"), st.sampled_from(["limit", "PatientID"])
)


@given(st.lists(st.tuples(names, st.text(max_size=10)), max_size=5))
def test_any_parameters_are_understood_or_refused(parameters: list[tuple[str, str]]):
    with contextlib.suppress(InvalidInput):
        asked = read(parameters)
        assert all(isinstance(element, Element) for element in asked.keys.values())
