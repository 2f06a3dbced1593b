"""What a model said of one image, as it goes into DICOM objects (`inference.structured`, `inference.marked`).

Everything in an object follows from the score that it is about, its UIDs too (UUIDv5, PS3.5 B.2): made again, it is the
same object. Patient and study come from the index, in UTF-8, as people have corrected them.
"""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from io import BytesIO
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import DS

from inference.codes import Term, term

__all__ = [
    "NOT_FOR_DIAGNOSIS", "Analysis", "Found", "Region", "common", "encoded", "finished", "local", "series_uid",
    "sop_uid", "source", "stable_uid", "tracking_uid",
]  # fmt: skip

NOT_FOR_DIAGNOSIS: Final = ("Not for diagnosis", "Không dùng để chẩn đoán")

_NAMESPACE: Final = uuid.UUID("b4a4ef24-50d3-5f43-a1ad-96a2b5a3f2d3")
_SERIES: Final = {"sr": 9001, "pr": 9002, "sc": 9003}
_SHOWN: Final = {"sr": "result", "pr": "marks", "sc": "map"}
_UTF8: Final = "ISO_IR 192"
_OFFSET: Final = re.compile(r"[+-](0\d|1[0-4])[0-5]\d", re.ASCII)
_TM: Final = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Region:
    """Where a finding is, as a box: shares of the film's width and height, from the top left corner (0 to 1)."""

    left: float
    top: float
    right: float
    bottom: float

    def corners(self, rows: int, columns: int) -> npt.NDArray[np.float64]:
        r"""The closed outline [5, 2] as column and row (PS3.3 C.18.6.1.2: 0\0 is the top left corner of the image)."""
        left, right = self.left * columns, self.right * columns
        top, bottom = self.top * rows, self.bottom * rows
        outline = ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
        return np.asarray(outline, np.float64).round(1)

    def turned(self, degrees: int) -> Region:
        """The same place after the film was turned by 0, 90, 180 or 270 degrees counter-clockwise."""
        place = self
        for _ in range(degrees // 90 % 4):
            place = Region(place.top, 1 - place.right, place.bottom, 1 - place.left)
        return place


@dataclass(frozen=True, slots=True)
class Found:
    """A finding that the worklist names, or the flag itself ('Abnormal')."""

    name: str
    probability: float
    threshold: float
    region: Region | None = None

    @property
    def term(self) -> Term:
        """Its code and its names."""
        return term(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """One score, as it is reported."""

    sop_uid: str  # of the image
    study_uid: str
    model_name: str
    model_version: str
    weights_sha256: str
    engine: str
    flagged: bool
    scored_at: dt.datetime
    findings: Sequence[Found]  # the flag first
    notes: Sequence[str] = field(default_factory=tuple)  # what was put right in the image before it was read
    ae_title: str = "SANGLOC"


# ---- identity


def stable_uid(*about: str) -> str:
    """The UID of what these words say, the same for ever."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(0).join(about)).int}"


def sop_uid(kind: str, analysis: Analysis) -> str:
    """SOP Instance UID of the object of this kind about this image by this model."""
    return stable_uid("instance", kind, analysis.sop_uid, analysis.weights_sha256, analysis.model_version)


def series_uid(kind: str, analysis: Analysis) -> str:
    """One series for each kind and model version in a study."""
    return stable_uid("series", kind, analysis.study_uid, analysis.weights_sha256, analysis.model_version)


def tracking_uid(analysis: Analysis, finding: str) -> str:
    """The same in all objects that speak of this finding in this image by this model."""
    return stable_uid("tracking", analysis.sop_uid, analysis.weights_sha256, analysis.model_version, finding)


# ---- what the objects have in common


def source(row: Mapping[str, Any], header: Dataset) -> Dataset:
    """The image as the objects refer to it: patient and study from the index, geometry and grey values from its header.

    Args:
        row: from `storage.results.source_of`.
        header: of the stored object, without pixels.
    """
    image = Dataset()
    image.SpecificCharacterSet = _UTF8
    image.SOPClassUID, image.SOPInstanceUID = row["sop_class"], row["sop_uid"]
    image.StudyInstanceUID, image.SeriesInstanceUID = row["study_uid"], row["series_uid"]
    image.PatientName, image.PatientID = _name(row["patient_name"]), row["patient_id"][:64]
    if row["issuer"]:
        image.IssuerOfPatientID = row["issuer"][:64]
    image.PatientBirthDate = _date(row["patient_birth_date"])
    image.PatientSex = row["patient_sex"] if row["patient_sex"] in {"M", "F", "O"} else ""
    if _is_age(row["patient_age"]):
        image.PatientAge = row["patient_age"]
    image.StudyDate, image.StudyTime = _date(row["study_date"]), _time(row["study_time"])
    image.AccessionNumber, image.StudyID = row["accession_number"][:16], row["study_id"][:16]
    image.StudyDescription = row["description"][:64]
    image.ReferringPhysicianName = _name(row["referring_physician"])
    if _OFFSET.fullmatch(row["timezone_offset"]):
        image.TimezoneOffsetFromUTC = row["timezone_offset"]
    image.Modality = row["modality"] or "DX"
    image.SamplesPerPixel = 1
    image.Rows, image.Columns = int(row["rows"]), int(row["columns"])
    image.InstanceNumber = row["instance_number"] or 1
    _geometry(image, header)
    _grey_values(image, header)
    return image


def _geometry(image: Dataset, header: Dataset) -> None:
    """What an image library says of a radiograph (PS3.16 TID 1603), where the header says it."""
    orientation, spacing = _value(header, "PatientOrientation"), _value(header, "ImagerPixelSpacing")
    if isinstance(orientation, MultiValue) and len(orientation) == 2 and all(orientation):
        image.PatientOrientation = [str(one) for one in orientation]
    if isinstance(spacing, MultiValue) and len(spacing) == 2 and all(isinstance(one, float) for one in spacing):
        image.ImagerPixelSpacing = list(spacing)


def _grey_values(image: Dataset, header: Dataset) -> None:
    """What a presentation state repeats of the image's look-up tables (PS3.3 C.11.1, C.11.2), where it makes sense."""
    image.PhotometricInterpretation = _value(header, "PhotometricInterpretation") or "MONOCHROME2"
    slope, intercept = (_number(_value(header, name)) for name in ("RescaleSlope", "RescaleIntercept"))
    if slope and intercept is not None:
        image.RescaleSlope, image.RescaleIntercept = DS(slope, auto_format=True), DS(intercept, auto_format=True)
        image.RescaleType = str(_value(header, "RescaleType") or "US")[:16]
    center, width = (_number(_value(header, name)) for name in ("WindowCenter", "WindowWidth"))
    if center is not None and width is not None and width >= 1:
        image.WindowCenter, image.WindowWidth = DS(center, auto_format=True), DS(width, auto_format=True)
        if _value(header, "VOILUTFunction") in {"LINEAR", "LINEAR_EXACT", "SIGMOID"}:
            image.VOILUTFunction = header.VOILUTFunction


def common(kind: str, image: Dataset, analysis: Analysis) -> dict[str, Any]:
    """What highdicom is told of series, instance and equipment, whatever the kind of object."""
    at = local(analysis.scored_at, image)
    return {
        "series_instance_uid": series_uid(kind, analysis),
        "series_number": _SERIES[kind],
        "sop_instance_uid": sop_uid(kind, analysis),
        "instance_number": max(1, int(image.InstanceNumber)),
        "manufacturer": "sangloc",
        "manufacturer_model_name": "sangloc",
        "software_versions": [version("sangloc")[:64], f"{analysis.model_name} {analysis.model_version}"[:64]],
        "device_serial_number": analysis.weights_sha256,
        "series_description": f"{analysis.model_name} {_SHOWN[kind]}: {NOT_FOR_DIAGNOSIS[0].lower()}"[:64],
        "specific_character_set": _UTF8,
        "series_date": at.date(),
        "series_time": at.time(),
    }


def finished(made: Dataset, image: Dataset, analysis: Analysis) -> Dataset:
    """The object with the moment of the score in place of that of its making, and what the library leaves out."""
    at = local(analysis.scored_at, image)
    made.InstanceCreationDate, made.InstanceCreationTime = at.strftime("%Y%m%d"), at.strftime("%H%M%S.%f")
    for keyword, shape in (
        ("ContentDate", "%Y%m%d"),
        ("ContentTime", "%H%M%S.%f"),
        ("PresentationCreationDate", "%Y%m%d"),
        ("PresentationCreationTime", "%H%M%S.%f"),
        ("DateOfSecondaryCapture", "%Y%m%d"),
        ("TimeOfSecondaryCapture", "%H%M%S.%f"),
    ):
        if keyword in made:
            setattr(made, keyword, at.strftime(shape))
    for item in made.get("ContributingEquipmentSequence", ()):
        item.ContributionDateTime = at.strftime("%Y%m%d%H%M%S.%f")
    for keyword in ("PatientName", "ReferringPhysicianName"):  # without the mark of `_name`
        delattr(made, keyword)  # the library has put the image's own element there
        setattr(made, keyword, str(getattr(image, keyword)).rstrip("^"))
    if made.Modality != "SR":
        made.BodyPartExamined = "CHEST"
    for keyword in ("StudyDescription", "PatientAge", "IssuerOfPatientID", "TimezoneOffsetFromUTC"):
        if keyword in image:
            setattr(made, keyword, getattr(image, keyword))
    return made


def encoded(made: Dataset) -> bytes:
    """The data set without preamble and file meta, in the transfer syntax of its file meta."""
    buffer = BytesIO()
    file = DicomFileLike(buffer)
    file.is_implicit_VR, file.is_little_endian = False, True
    if "PixelData" in made:
        made["PixelData"].is_undefined_length = made.file_meta.TransferSyntaxUID.is_encapsulated
    write_dataset(file, made)
    return buffer.getvalue()


# ---- values


def local(at: dt.datetime, image: Dataset) -> dt.datetime:
    """The moment in the time zone of the study's other times, else in the server's."""
    text = str(image.get("TimezoneOffsetFromUTC", ""))
    if text:
        offset = dt.timedelta(hours=int(text[1:3]), minutes=int(text[3:]))
        return at.astimezone(dt.timezone(-offset if text[0] == "-" else offset))
    return at.astimezone()


def _name(text: str) -> str:
    """A name of groups that are not too long; with a caret, for highdicom suspects (and logs) a name without one."""
    name = "=".join(group[:64] for group in text.split("=")[:3])
    return name if "^" in name or not name else f"{name}^"


def _value(header: Dataset, keyword: str) -> Any:
    """A value of the image's header, None for one that is no value of its kind."""
    try:
        return header.get(keyword)
    except (AttributeError, KeyError, NotImplementedError, OverflowError, TypeError, ValueError):
        return None


def _date(date: dt.date | None) -> str:
    return "" if date is None else date.strftime("%Y%m%d")


def _time(text: str) -> str:
    """A TM that everybody can read (PS3.5 6.2), '' for anything else."""
    plain = text.replace(":", "")
    return plain if _TM.fullmatch(plain) else ""


def _is_age(text: str) -> bool:
    return len(text) == 4 and text[:3].isdigit() and text[3] in "DWMY"


def _number(value: Any) -> float | None:
    """The first of the values of a DS, None where there is none that is a number."""
    try:
        first = value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value
        number = float(first)
    except (IndexError, TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None
