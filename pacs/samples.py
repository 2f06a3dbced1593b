"""Studies for the demo: drawn phantoms, or any folder of DICOM, PNG and JPEG files. Every patient is made up."""

from __future__ import annotations

import datetime as dt
import random
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filereader import dcmread
from pydicom.misc import is_dicom
from pydicom.uid import (
    UID,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)

from models.phantom import ABNORMALITIES, chest, lateral
from storage.errors import InvalidInput

__all__ = ["Sample", "find_files", "from_file", "phantom", "wrap"]

_IMAGES = {".png", ".jpg", ".jpeg"}
_FAMILY = (
    "Nguyễn",
    "Trần",
    "Lê",
    "Phạm",
    "Hoàng",
    "Huỳnh",
    "Phan",
    "Vũ",
    "Võ",
    "Đặng",
    "Bùi",
    "Đỗ",
    "Hồ",
    "Ngô",
    "Dương",
)
_MIDDLE = {"M": ("Văn", "Hữu", "Đức", "Minh", "Quang"), "F": ("Thị", "Ngọc", "Thanh", "Thu", "Kim")}
_GIVEN = {
    "M": ("An", "Bình", "Cường", "Dũng", "Hùng", "Sơn", "Tuấn"),
    "F": ("Anh", "Hà", "Hoa", "Lan", "Mai", "Nga", "Yến"),
}
_PA = ("272479007", "postero-anterior")  # SNOMED CT codes of CID 4010
_LATERAL = ("399067008", "lateral projection")


@dataclass(frozen=True, slots=True)
class Sample:
    """One object to send: a data set, or a DICOM file that is sent as it is."""

    study_uid: str
    sop_class: str
    transfer_syntax: str
    payload: FileDataset | Path


def phantom(number: int, seed: int = 0) -> Sample:
    """The `number`th drawn study: of the frontal chests half carry an abnormality; every eighth no model reads."""
    abnormality = ABNORMALITIES[(number // 2) % len(ABNORMALITIES)] if number % 2 else ""
    odd = ("lateral", "hand", "ct")[(number // 8) % 3] if number % 8 == 7 else ""
    if odd == "lateral":
        dataset = wrap(lateral(seed + number), number, seed, view="LL")
    else:
        dataset = wrap(chest(seed + number, abnormality), number, seed, body_part="HAND" if odd == "hand" else "CHEST")
    if odd == "ct":
        _turn_into_ct(dataset)
    if number % 9 == 4:
        dataset.RequestedProcedurePriority = "STAT"
    return _sample(dataset)


def find_files(folder: Path, limit: int) -> list[Path]:
    """The first `limit` DICOM, PNG and JPEG files under `folder`, in the order of their names.

    Raises:
        InvalidInput: there is no such folder, or none of these in it.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is not a folder")
    found: list[Path] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix.lower() in _IMAGES or (path.stat().st_size > 132 and is_dicom(path)):
            found.append(path)
        if len(found) == limit:
            break
    if not found:
        raise InvalidInput(f"no DICOM, PNG or JPEG file lies in {folder}")
    return found


def from_file(path: Path, number: int) -> Sample:
    """A DICOM file as it is; a picture wrapped as a chest film of a made-up patient.

    Raises:
        InvalidInput: the file cannot be read.
    """
    try:
        if path.suffix.lower() not in _IMAGES:
            header = dcmread(path, specific_tags=["StudyInstanceUID", "SOPClassUID"], stop_before_pixels=True)
            meta = header.file_meta
            return Sample(header.StudyInstanceUID, meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID, path)
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("L"))
    except Exception as error:  # whatever a decoder raises for a broken file
        raise InvalidInput(f"{path}: {error}") from error
    return _sample(wrap(pixels, number, 0, lossy=path.suffix.lower() != ".png"))


def wrap(
    pixels: npt.NDArray[Any], number: int, seed: int, *, view: str = "PA", body_part: str = "CHEST", lossy: bool = False
) -> FileDataset:
    """A DX image For Presentation (PS3.3 A.26) around grey pixels, with patient `number` of the made-up ones.

    Args:
        pixels: uint8 or uint16 (12 bits) [rows, columns], white is bone.
        number: which patient.
        seed: other seeds make other patients.
        view: View Position, PA or LL.
        body_part: Body Part Examined.
        lossy: the pixels went through lossy compression.
    """
    now = dt.datetime.now()  # the modality's local time, as PS3.3 has it
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = _new_uid()
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = _new_uid(), _new_uid()
    _describe_patient(dataset, number, seed, now)
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = f"{now:%Y%m%d}"
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = f"{now:%H%M%S}"
    dataset.StudyID, dataset.AccessionNumber = str(number + 1), f"DEMO{seed:03d}{number + 1:05d}"
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription, dataset.Modality = f"X-ray {body_part.lower()}", "DX"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.Manufacturer, dataset.InstitutionName, dataset.StationName = "sangloc demo", "Bệnh viện mẫu", "DEMO"
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    _describe_view(dataset, view, body_part)
    _describe_pixels(dataset, pixels, lossy)
    return dataset


def _sample(dataset: FileDataset) -> Sample:
    return Sample(dataset.StudyInstanceUID, dataset.SOPClassUID, ExplicitVRLittleEndian, dataset)


def _new_uid() -> UID:
    return UID(f"2.25.{uuid.uuid4().int}")  # PS3.5 B.2


def _describe_patient(dataset: Dataset, number: int, seed: int, now: dt.datetime) -> None:
    chosen = random.Random(f"{seed}/{number}")  # noqa: S311  names, not secrets
    sex, years = chosen.choice("MF"), chosen.randint(19, 88)
    given = f"{chosen.choice(_MIDDLE[sex])} {chosen.choice(_GIVEN[sex])}"
    dataset.PatientName = f"{chosen.choice(_FAMILY)}^{given}"
    dataset.PatientID, dataset.PatientSex = f"DEMO-{seed:03d}-{number + 1:05d}", sex
    dataset.PatientBirthDate = f"{now.year - years - 1}{chosen.randint(1, 12):02d}{chosen.randint(1, 28):02d}"
    dataset.PatientAge = f"{years:03d}Y"


def _describe_view(dataset: Dataset, view: str, body_part: str) -> None:
    dataset.BodyPartExamined, dataset.ViewPosition = body_part, view
    dataset.SeriesDescription = f"{body_part.capitalize()} {view}"
    dataset.ImageLaterality = "U"
    dataset.PatientOrientation = ["L", "F"] if view == "PA" else ["A", "F"]
    region = ("43799004", "Chest") if body_part == "CHEST" else ("85562004", "Hand")
    dataset.AnatomicRegionSequence = [_code(*region)]
    dataset.ViewCodeSequence = [_code(*(_PA if view == "PA" else _LATERAL))]
    dataset.ViewCodeSequence[0].ViewModifierCodeSequence = []
    dataset.AcquisitionContextSequence = []
    dataset.DetectorType, dataset.PositionerType = "DIRECT", "NONE"
    dataset.ImagerPixelSpacing = ["0.4", "0.4"]


def _describe_pixels(dataset: Dataset, pixels: npt.NDArray[Any], lossy: bool) -> None:
    deep = pixels.dtype != np.uint8
    stored, top = (12, 4096) if deep else (8, 256)
    dataset.ImageType = ["DERIVED", "PRIMARY", ""]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (16 if deep else 8), stored, stored - 1
    dataset.PixelRepresentation = 0
    dataset.PixelIntensityRelationship, dataset.PixelIntensityRelationshipSign = "LOG", 1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
    dataset.PresentationLUTShape, dataset.BurnedInAnnotation = "IDENTITY", "NO"
    dataset.LossyImageCompression = "01" if lossy else "00"
    if lossy:
        dataset.LossyImageCompressionRatio, dataset.LossyImageCompressionMethod = "10", "ISO_10918_1"
    dataset.WindowCenter, dataset.WindowWidth = str(top // 2), str(top)
    dataset.PixelData = np.ascontiguousarray(pixels).tobytes() + (b"\0" if pixels.nbytes % 2 else b"")
    dataset["PixelData"].VR = "OW" if deep else "OB"


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def _turn_into_ct(dataset: FileDataset) -> None:
    """The least that makes a CT slice of it: the list must show why no model reads one."""
    dataset.Modality, dataset.SOPClassUID = "CT", CTImageStorage
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.StudyDescription, dataset.SeriesDescription = "CT chest", "Topogram"
