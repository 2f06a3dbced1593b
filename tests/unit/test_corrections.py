"""Values that correct others: what their VR allows, in DICOM JSON and in columns, and back."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword

from storage import corrections
from storage.corrections import PATIENT, SERIES, STUDY, Attribute
from storage.errors import InvalidInput

ALL = PATIENT | STUDY | SERIES


def test_every_attribute_is_that_of_the_dictionary() -> None:
    for keyword, attribute in ALL.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        assert attribute.tag == f"{tag:08X}"
        assert attribute.vr == dictionary_VR(tag)
    assert set(corrections.OTHER_PERSON) <= set(PATIENT)


@pytest.mark.parametrize(
    ("keyword", "text", "json", "column"),
    [
        (
            "PatientName",
            "Nguyễn^Văn An=阮^安=",
            [{"Alphabetic": "Nguyễn^Văn An", "Ideographic": "阮^安"}],
            "Nguyễn^Văn An=阮^安",
        ),
        ("PatientName", "Nguyễn^^", [{"Alphabetic": "Nguyễn^^"}], "Nguyễn"),
        ("StudyDate", "20260102", ["20260102"], "2026-01-02"),
        ("SeriesNumber", "7", [7], 7),
        ("PatientWeight", "61.5", [61.5], None),
        ("OtherPatientIDs", "A\\B", ["A", "B"], None),
        ("PatientComments", "a\\b\r\nc", ["a\\b\r\nc"], None),
        ("AccessionNumber", " A1 ", ["A1"], "A1"),
    ],
)
def test_values_in_json_and_in_columns(keyword: str, text: str, json: list[object], column: object) -> None:
    attribute = ALL[keyword]
    value = corrections.parse({keyword: text}, ALL)[keyword]
    assert corrections.json_value(attribute.vr, value) == {"vr": attribute.vr, "Value": json}
    if attribute.column:
        assert corrections.column_value(attribute, value) == column
    Dataset.from_json({attribute.tag: corrections.json_value(attribute.vr, value)})


def test_an_empty_text_empties_the_attribute() -> None:
    assert corrections.parse({"StudyDate": ""}, ALL) == {"StudyDate": ""}
    assert corrections.json_value("DA", "") == {"vr": "DA"}
    assert corrections.column_value(STUDY["StudyDate"], "") is None
    with pytest.raises(InvalidInput, match="empty"):
        corrections.parse({"Modality": ""}, ALL)


@given(st.dictionaries(st.sampled_from(sorted(ALL)) | st.text(max_size=20), st.text(max_size=80), max_size=4))
def test_whatever_is_given_is_refused_or_becomes_dicom(values: dict[str, str]) -> None:
    try:
        parsed = corrections.parse(values, ALL)
    except InvalidInput:
        return
    data = Dataset.from_json(corrections.shown(parsed, ALL))
    assert {element.keyword for element in data} == set(parsed)
    for keyword, text in parsed.items():
        corrections.column_value(ALL[keyword], text)


def test_a_refusal_does_not_quote_the_value() -> None:
    with pytest.raises(InvalidInput) as refused:
        corrections.parse({"PatientSex": "Nguyễn"}, ALL)
    assert "Nguyễn" not in str(refused.value)


@given(st.dates(min_value=dt.date(1000, 1, 1)))
def test_a_date_comes_back_from_its_column(date: dt.date) -> None:
    attribute = Attribute("00080020", "DA", "study_date")
    text = date.strftime("%Y%m%d")
    assert corrections.text_of(attribute, corrections.column_value(attribute, text)) == text


def test_the_note_of_what_was_replaced_is_an_item_of_original_attributes_sequence() -> None:
    item = corrections.original_item({"00100020": {"vr": "LO", "Value": ["BN1"]}})
    data = Dataset.from_json({corrections.ORIGINAL: {"vr": "SQ", "Value": [item]}})
    (read,) = data.OriginalAttributesSequence
    assert read.ModifiedAttributesSequence[0].PatientID == "BN1"
    assert (read.ReasonForTheAttributeModification, read.ModifyingSystem) == ("CORRECT", "SANGLOC")
    assert read.SourceOfPreviousValues in ("", None)
    assert read.AttributeModificationDateTime
