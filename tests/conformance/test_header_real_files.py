"""The header scanner against pydicom on every real file that pydicom can read."""

from __future__ import annotations

import datetime as dt
import io
import warnings
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import PersonName

from pacs.header import read_header
from pacs.part10 import read_head
from storage.errors import InvalidDataSet
from storage.received import InstanceHeader

_TEXT = {
    "sop_class": "SOPClassUID",
    "sop_uid": "SOPInstanceUID",
    "study_uid": "StudyInstanceUID",
    "series_uid": "SeriesInstanceUID",
    "patient_id": "PatientID",
    "issuer": "IssuerOfPatientID",
    "patient_name": "PatientName",
    "patient_sex": "PatientSex",
    "patient_age": "PatientAge",
    "study_time": "StudyTime",
    "accession_number": "AccessionNumber",
    "study_id": "StudyID",
    "study_description": "StudyDescription",
    "referring_physician": "ReferringPhysicianName",
    "timezone_offset": "TimezoneOffsetFromUTC",
    "modality": "Modality",
    "series_description": "SeriesDescription",
    "body_part": "BodyPartExamined",
    "protocol_name": "ProtocolName",
    "series_time": "SeriesTime",
    "performing_physician": "PerformingPhysicianName",
    "station_name": "StationName",
    "manufacturer": "Manufacturer",
    "manufacturer_model": "ManufacturerModelName",
    "institution_name": "InstitutionName",
    "photometric": "PhotometricInterpretation",
    "view_position": "ViewPosition",
    "image_type": "ImageType",
}
_NUMBERS = {
    "series_number": "SeriesNumber",
    "instance_number": "InstanceNumber",
    "rows": "Rows",
    "columns": "Columns",
    "bits_allocated": "BitsAllocated",
    "frames": "NumberOfFrames",
}
_DATES = {"study_date": "StudyDate", "series_date": "SeriesDate", "patient_birth_date": "PatientBirthDate"}
_WRONG_NUMBERS = {"badVR.dcm": {"frames"}}  # '1A' by intent
_UNREADABLE_BY_PYDICOM = {"emri_small_jpeg_2k_lossless_too_short.dcm"}  # its elements are lost, ours are not


def _files(shared: Path) -> list[Path]:
    folder = shared / "dicom"
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in {".csv", ".md"})


def _read(path: Path) -> tuple[Dataset, bytes, str] | None:
    """What pydicom makes of the file, the bytes of its data set and their transfer syntax."""
    content = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            head = read_head(io.BytesIO(content))
            whole = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, force=head is not None)
            whole.walk(lambda *_: None)
        except Exception:  # any: the file is broken on purpose
            return None
    if head is None or path.name in _UNREADABLE_BY_PYDICOM:
        return None
    return whole, content[head.dataset_offset :], head.transfer_syntax


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, PersonName):
        return str(value).rstrip("^=")
    if isinstance(value, MultiValue | list):
        return "\\".join(map(_text, value))
    return str(getattr(value, "original_string", value)).strip()


def _date(text: str) -> dt.date | None:
    try:
        return dt.datetime.strptime(text.replace(".", ""), "%Y%m%d").date() if len(text) >= 8 else None
    except ValueError:
        return None


def _differences(header: InstanceHeader, whole: Dataset, name: str) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [
            f"{ours}: {getattr(header, ours)!r} {whole.get(theirs)!r}"
            for ours, theirs in _TEXT.items()
            if getattr(header, ours) != _text(whole.get(theirs)).rstrip("^")
        ]
        for ours, theirs in _NUMBERS.items():
            value = whole.get(theirs)
            if ours not in _WRONG_NUMBERS.get(name, ()) and getattr(header, ours) != (
                None if value in {None, ""} else int(value)
            ):
                found.append(f"{ours}: {getattr(header, ours)!r} {value!r}")
        for ours, theirs in _DATES.items():
            value = _text(whole.get(theirs))
            expected = _date(value)
            if getattr(header, ours) != expected:
                found.append(f"{ours}: {getattr(header, ours)!r} {value!r}")
    return found


def test_the_same_values_as_pydicom_on_every_readable_file(shared: Path) -> None:
    compared, refused = 0, []
    for path in _files(shared):
        read = _read(path)
        if read is None:
            continue
        whole, data, syntax = read
        try:
            header = read_header(data, syntax)
        except InvalidDataSet as error:
            refused.append((path.name, str(error), whole))
            continue
        assert _differences(header, whole, path.name) == [], path.name
        compared += 1
    assert compared >= 240
    for name, reason, whole in refused:
        missing = any(
            not whole.get(uid) for uid in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
        )
        assert missing if "missing" in reason else name == "bad_sequence.dcm", (name, reason)


@pytest.mark.parametrize("size", [64, 1000])
def test_cut_off_anywhere_it_is_read_or_refused(shared: Path, size: int) -> None:
    for path in _files(shared)[::7]:
        content = path.read_bytes()
        for end in range(132, min(len(content), 12_000), size * 7):
            for syntax in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"):
                try:
                    read_header(content[132:end], syntax)
                except InvalidDataSet:
                    continue
