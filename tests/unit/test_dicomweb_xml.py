"""The Native DICOM Model (PS3.19 A.1)."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from api.dicomweb.xml import native

NS = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"


def attributes(model: ET.Element) -> dict[str | None, ET.Element]:
    return {one.get("tag"): one for one in model}


def test_every_form_of_a_value():
    model = ET.fromstring(
        native(
            {
                "00080020": {"vr": "DA", "Value": ["20260102"]},
                "00080061": {"vr": "CS", "Value": ["CT", None, "MR"]},
                "00080090": {"vr": "PN"},
                "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Nguyễn^Văn An^^BS", "Ideographic": "阮^文安"}]},
                "00101002": {"vr": "SQ", "Value": [{"00100020": {"vr": "LO", "Value": ["A&B <1>"]}}, {}]},
                "00091001": {"vr": "UN", "InlineBinary": "AAE="},
                "7FE00010": {"vr": "OW", "BulkDataURI": 'http://x/y?a=1&b="2"'},
                "00280010": {"vr": "US", "Value": [512]},
            }
        )
    )
    assert model.tag == f"{NS}NativeDicomModel"
    found = attributes(model)
    assert {tag: one.get("keyword") for tag, one in found.items()} == {
        "00080020": "StudyDate", "00080061": "ModalitiesInStudy", "00080090": "ReferringPhysicianName",
        "00100010": "PatientName", "00101002": "OtherPatientIDsSequence", "00091001": None, "7FE00010": "PixelData",
        "00280010": "Rows",
    }  # fmt: skip
    assert [(one.get("number"), one.text) for one in found["00080061"]] == [("1", "CT"), ("3", "MR")]
    assert len(found["00080090"]) == 0
    alphabetic = found["00100010"].find(f"{NS}PersonName/{NS}Alphabetic")
    assert alphabetic is not None
    assert [(one.tag.removeprefix(NS), one.text) for one in alphabetic] == [
        ("FamilyName", "Nguyễn"), ("GivenName", "Văn An"), ("NamePrefix", "BS"),
    ]  # fmt: skip
    items = found["00101002"].findall(f"{NS}Item")
    assert [item.get("number") for item in items] == ["1", "2"]
    assert attributes(items[0])["00100020"][0].text == "A&B <1>"
    assert found["00091001"][0].text == "AAE="
    assert found["7FE00010"][0].get("uri") == 'http://x/y?a=1&b="2"'
    assert found["00280010"][0].text == "512"


@given(st.text())
def test_any_text_makes_a_document(text: str):
    model = ET.fromstring(native({"00081030": {"vr": "LO", "Value": [text]}}))
    kept = "".join(
        c if c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff" else "\ufffd"
        for c in text
    )
    values = model.findall(f"{NS}DicomAttribute/{NS}Value")
    assert [value.text for value in values] == ([kept] if text else [])
