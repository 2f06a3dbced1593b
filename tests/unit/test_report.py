"""What a model said, as DICOM objects: codes, content tree, regions, UIDs; what is read back is what was said."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from io import BytesIO
from typing import Any

import cv2
import highdicom as hd
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.dataelem import RawDataElement
from pydicom.sr.codedict import codes
from pydicom.tag import Tag

from inference import codes as table
from inference.marked import presentation_state, secondary_capture
from inference.overlay import picture
from inference.report import Analysis, Found, Region, encoded, series_uid, sop_uid, source, tracking_uid
from inference.structured import structured_report
from models.bundle import DEFAULT_BUNDLE, load_bundle
from models.maps import Maps, pack
from models.preprocess import Frame
from pacs.heat import heat_of, painted, png
from pacs.part10 import file_meta
from storage.errors import InvalidInput

ROW: dict[str, Any] = {
    "sop_class": "1.2.840.10008.5.1.4.1.1.1.1", "sop_uid": "1.2.3.4", "study_uid": "1.2.3", "series_uid": "1.2.3.3",
    "patient_name": "Nguyễn^Văn An", "patient_id": "BN1", "issuer": "HOSP", "patient_birth_date": dt.date(1960, 2, 3),
    "patient_sex": "M", "patient_age": "060Y", "study_date": dt.date(2026, 1, 2), "study_time": "101112.5",
    "accession_number": "A1", "study_id": "S1", "description": "Ngực thẳng", "referring_physician": "Trần^Thị B",
    "timezone_offset": "+0700", "modality": "DX", "rows": 3000, "columns": 2000, "instance_number": 2,
}  # fmt: skip
EFFUSION = Found("Effusion", 0.77, 0.5, Region(0.1, 0.5, 0.4, 0.9))
ANALYSIS = Analysis(
    sop_uid="1.2.3.4",
    study_uid="1.2.3",
    model_name="chest_xray",
    model_version="0.1.0",
    weights_sha256="ab" * 32,
    engine="openvino",
    flagged=True,
    scored_at=dt.datetime(2026, 1, 2, 3, 30, 5, tzinfo=dt.UTC),
    findings=(Found("Abnormal", 0.91, 0.4), EFFUSION, Found("Pleural_Thickening", 0.31, 0.2)),
    notes=("the image was upside down and was turned upright",),
)


def header(**values: Any) -> Dataset:
    made = Dataset()
    for name, value in {"PhotometricInterpretation": "MONOCHROME2", **values}.items():
        setattr(made, name, value)
    return made


def read_back(made: Dataset) -> Dataset:
    """What a receiver reads of it."""
    syntax = made.file_meta.TransferSyntaxUID
    return pydicom.dcmread(BytesIO(file_meta(made.SOPClassUID, made.SOPInstanceUID, syntax) + encoded(made)))


# ---- codes


def test_every_finding_of_the_shipped_model_has_a_code_of_its_own() -> None:
    known = [table.term(name) for name in load_bundle(DEFAULT_BUNDLE).findings]
    assert set(known) <= set(table.FINDINGS.values())
    assert len({(one.value, one.scheme) for one in known}) == len(known)


def test_no_two_findings_share_a_code() -> None:
    known = [(one.value, one.scheme) for one in table.FINDINGS.values()]
    assert len(set(known)) == len(known)
    assert all(1 <= len(one.value) <= 16 for one in table.FINDINGS.values())


def test_codes_that_pydicom_knows_are_what_it_says() -> None:
    assert table.term("Pneumothorax")[:2] == (codes.SCT.Pneumothorax.value, "SCT")
    assert table.term("pleural_effusion")[:2] == (codes.SCT.PleuralEffusion.value, "SCT")
    assert table.term("Edema")[:2] == (codes.SCT.PulmonaryEdema.value, "SCT")
    assert table.term("Infiltration")[:2] == (codes.DCM.Infiltrate.value, "DCM")
    assert table.term("Lung Opacity")[:2] == (codes.DCM.Opacity.value, "DCM")
    assert table.term("Abnormal")[:2] == (codes.SCT.Abnormal.value, "SCT")
    for name in ("Mass", "Nodule"):
        assert table.term(name)[:2] == (getattr(codes.SCT, name).value, "SCT")


@given(st.text())
def test_whatever_a_foreign_model_calls_it_there_is_a_valid_code(name: str) -> None:
    term = table.term(name)
    assert 1 <= len(term.value) <= 16
    assert 1 <= len(term.meaning) <= 64
    assert term.value.isascii()


# ---- structured report


def group_items(group: Any) -> dict[str, Any]:
    return {item.ConceptNameCodeSequence[0].CodeMeaning: item for item in group}


def test_the_report_says_what_the_model_said() -> None:
    made = read_back(structured_report(source(ROW, header()), ANALYSIS))
    report = hd.sr.Comprehensive3DSR.from_dataset(made)
    content = report.content
    assert isinstance(content, hd.sr.MeasurementReport)
    whole = content.get_image_measurement_groups()
    regions = content.get_planar_roi_measurement_groups()
    assert [group.finding_type.meaning for group in whole] == ["Abnormal", "Pleural thickening"]
    assert [(group.finding_type.value, group.finding_type.scheme_designator) for group in regions] == [
        ("60046008", "SCT")
    ]
    (effusion,) = regions
    assert effusion.tracking_uid == tracking_uid(ANALYSIS, "Effusion")
    assert (effusion.tracking_identifier or "").startswith("chest_xray")
    values = {one.name.meaning: (one.value, one.unit.value) for one in effusion.get_measurements()}
    assert values == {"Probability": (0.77, "1"), "Threshold Value": (0.5, "1")}
    says = {one.name.meaning: one.value.value for one in effusion.get_qualitative_evaluations()}
    assert says.items() >= {"Triage flag": "FLAGGED", "Intended use": "TRIAGE-ONLY"}.items()
    assert effusion.roi is not None
    assert np.allclose(effusion.roi.value[:4], [[200, 1500], [800, 1500], [800, 2700], [200, 2700]])


def test_the_report_names_the_algorithm_and_the_image() -> None:
    made = read_back(structured_report(source(ROW, header()), ANALYSIS))
    groups = [
        group
        for item in made.ContentSequence
        for group in item.get("ContentSequence", ())
        if group.ConceptNameCodeSequence[0].CodeValue == "125007"
    ]
    assert len(groups) == 3
    for group in groups:
        said = [(one.ConceptNameCodeSequence[0].CodeValue, one.get("TextValue", "")) for one in group.ContentSequence]
        assert ("111001", "chest_xray") in said  # Algorithm Name
        assert ("111003", "0.1.0") in said  # Algorithm Version
        assert ("111002", f"weights SHA-256 {'ab' * 32}") in said  # Algorithm Parameters
        assert ("111002", "image the image was upside down and was turned upright") in said
    (study,) = made.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == ("1.2.3", "1.2.3.3")
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.4"
    assert (made.CompletionFlag, made.VerificationFlag, made.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )


def test_patient_and_study_are_those_of_the_index_in_utf8() -> None:
    image = source(ROW, header())
    for made in (structured_report(image, ANALYSIS), presentation_state(image, ANALYSIS)):
        found = read_back(made)
        assert found.SpecificCharacterSet == "ISO_IR 192"
        assert str(found.PatientName) == "Nguyễn^Văn An"
        assert (found.PatientID, found.IssuerOfPatientID, found.PatientSex) == ("BN1", "HOSP", "M")
        assert (found.StudyInstanceUID, found.StudyDescription, found.StudyTime) == ("1.2.3", "Ngực thẳng", "101112.5")
        assert str(found.ReferringPhysicianName) == "Trần^Thị B"
        assert found.InstanceCreationTime == "103005.000000", "the moment of the score in the time zone of the study"
        assert found.TimezoneOffsetFromUTC == "+0700"


@pytest.mark.parametrize(
    "odd",
    [
        {
            "patient_sex": "W",
            "patient_age": "60",
            "study_time": "25:99",
            "study_date": None,
            "patient_birth_date": None,
        },
        {"patient_name": "", "patient_id": "", "issuer": "", "referring_physician": "", "timezone_offset": "Z"},
        {"accession_number": "A" * 64, "study_id": "S" * 64, "description": "D" * 200, "instance_number": None},
        {"patient_name": "A" * 120 + "=" + "愛" * 70, "instance_number": -3, "modality": ""},
    ],
)
def test_whatever_a_sender_wrote_the_objects_can_be_made(odd: dict[str, Any]) -> None:
    with disable_value_validation():
        broken = Dataset.from_json({"00281050": {"vr": "DS", "Value": ["1"]}, "00281051": {"vr": "DS", "Value": ["0"]}})
        broken[0x00281050] = RawDataElement(Tag(0x00281050), "DS", 4, b"no\\1", 0, False, True)
        image = source(ROW | odd, broken)
        report = read_back(structured_report(image, ANALYSIS))
        assert report.PatientName == {**ROW, **odd}["patient_name"][:64] or "=" in str(report.PatientName)
        assert read_back(presentation_state(image, ANALYSIS)).Modality == "PR"


# ---- UIDs


def test_uids_follow_from_what_an_object_is_about() -> None:
    other = replace(ANALYSIS, model_version="0.2.0")
    uids = [sop_uid(kind, one) for kind in ("sr", "pr", "sc") for one in (ANALYSIS, other)]
    uids += [series_uid(kind, one) for kind in ("sr", "pr", "sc") for one in (ANALYSIS, other)]
    uids += [tracking_uid(ANALYSIS, "Effusion"), tracking_uid(ANALYSIS, "Mass")]
    assert len(set(uids)) == len(uids)
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids)
    assert sop_uid("sr", ANALYSIS) == "2.25.246227297552029499564745990473596698471", "must never change"


# ---- presentation state


@pytest.mark.parametrize(("photometric", "shape"), [("MONOCHROME2", "IDENTITY"), ("MONOCHROME1", "INVERSE")])
def test_the_presentation_state_marks_the_film_as_it_is_shown(photometric: str, shape: str) -> None:
    image = source(
        ROW, header(PhotometricInterpretation=photometric, WindowCenter=["2000", "9"], WindowWidth=["900", "1"])
    )
    made = read_back(presentation_state(image, ANALYSIS))
    assert made.PresentationLUTShape == shape
    assert (made.SoftcopyVOILUTSequence[0].WindowCenter, made.SoftcopyVOILUTSequence[0].WindowWidth) == (2000, 900)
    (annotation,) = made.GraphicAnnotationSequence
    (box,) = annotation.GraphicObjectSequence
    assert (box.GraphicType, box.GraphicAnnotationUnits, box.NumberOfGraphicPoints) == ("POLYLINE", "PIXEL", 5)
    assert list(box.GraphicData)[:4] == [200, 1500, 800, 1500]
    assert box.TrackingUID == tracking_uid(ANALYSIS, "Effusion")
    (text,) = annotation.TextObjectSequence
    assert "tràn dịch màng phổi 77%" in text.UnformattedTextValue
    assert "Không dùng để chẩn đoán" in text.UnformattedTextValue
    assert annotation.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.3.4"


def test_no_region_no_presentation_state() -> None:
    bare = replace(ANALYSIS, findings=[Found("Mass", 1, 0)])
    with pytest.raises(ValueError, match="no finding has a region"):
        presentation_state(source(ROW, header()), bare)


@pytest.mark.parametrize("turned", [0, 90, 180, 270])
def test_a_region_follows_the_film_when_it_is_turned(turned: int) -> None:
    upright = np.zeros((60, 40), np.uint8)
    upright[6:12, 8:20] = 255
    rows, columns = np.nonzero(np.rot90(upright, turned // 90))
    height, width = np.rot90(upright, turned // 90).shape
    place = Region(8 / 40, 6 / 60, 20 / 40, 12 / 60).turned(turned)
    expected = (columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height)
    assert np.allclose((place.left, place.top, place.right, place.bottom), expected)


# ---- the picture


def shown(columns: int = 300) -> np.ndarray:
    film = np.full((400, columns), 90, np.uint8)
    return picture(film, heat_of(stored(), ["Effusion"]), ANALYSIS)


def stored(frame: Frame = Frame(0, 0, 1, 1)) -> bytes:  # noqa: B008 - a tuple
    maps = np.zeros((2, 8, 8), np.float32)
    maps[0, 1, 6], maps[1, 6, 1] = 3, 5
    return pack(Maps(("Abnormal", "Effusion"), maps, frame))


def test_colour_lies_where_the_map_is_strong_and_nowhere_else() -> None:
    made = shown()
    film = made[48 : 48 + 1024]  # the words stand above and below
    assert made.shape[0] > 1024 + 100
    assert made.dtype == np.uint8
    colourful = np.ptp(film.astype(int), axis=2) > 40
    rows, columns = np.nonzero(colourful)
    assert colourful[800:900, 60:200].any()
    assert not colourful[:400].any(), "the map of another finding"
    assert rows.size
    assert columns.size


def test_the_words_stand_on_every_picture_however_narrow() -> None:
    for columns in (300, 60):
        made = shown(columns)
        assert made.shape[1] >= 720
        band = made[:40]
        assert (band.max(axis=2) > 150).mean() > 0.02, "not for diagnosis"


def test_a_map_covers_only_the_part_that_the_model_saw() -> None:
    heat = heat_of(stored(Frame(0.5, 0.0, 1.0, 1.0)))
    assert heat[:, : heat.shape[1] // 2 - 1].max() == 0
    assert heat.max() > 0.9
    assert heat_of(stored(), ["Mass"]).max() == 0


def test_what_are_no_maps_is_said() -> None:
    for broken in (b"", b"PK\x03\x04", stored()[:100]):
        with pytest.raises(InvalidInput, match="no stored maps"):
            heat_of(broken)


def test_the_map_as_png_is_clear_where_nothing_was_seen() -> None:
    rgba = painted(heat_of(stored(), ["Effusion"]), 200, 100)
    assert rgba[20, 90, 3] == 0
    assert rgba[160, 18, 3] > 100
    found = cv2.imdecode(np.frombuffer(png(rgba), np.uint8), cv2.IMREAD_UNCHANGED)
    assert found is not None
    assert np.array_equal(found[..., 3], rgba[..., 3])


def test_the_capture_says_what_it_is() -> None:
    made = read_back(secondary_capture(source(ROW, header()), ANALYSIS, shown()))
    assert made.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert (made.ImageType[0], made.PhotometricInterpretation) == ("DERIVED", "YBR_FULL_422")
    assert "not for diagnosis" in made.DerivationDescription
    assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.3.4"
    assert made.pixel_array.shape == shown().shape
    assert len(encoded(made)) < 200_000
