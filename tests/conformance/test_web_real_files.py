"""Real files in every common transfer syntax, from ../shared/dicom: attributes, pictures and frames over the web."""

from __future__ import annotations

import csv
import re
import shutil
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
from objects import kept
from pydicom.uid import UID

from api.rendering import Picture, render
from pacs.dicomjson import json_of
from pacs.frames import Image, open_image
from pacs.pixels import decode
from storage.errors import InvalidDataSet

CORPUS = Path(__file__).parents[3] / "shared" / "dicom"
ROWS = list(csv.DictReader((CORPUS / "manifest.csv").read_text("utf-8").splitlines())) if CORPUS.is_dir() else []
FILES = [row["file"] for row in ROWS]

pytestmark = [
    pytest.mark.skipif(not FILES, reason=f"{CORPUS} is not here"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

# Files whose image nobody can show, each with a word of the reason that we give.
_DAMAGED = {
    "GoogleCloudPlatform_healthcare-dicom-dicomweb-adapter/example3.dcm": "decoded",  # text where JPEG should be
    "pydicom_pydicom/JPEG2000-embedded-sequence-delimiter.dcm": "compressed image",  # made for a parser's test
    "pydicom_pydicom/MR_truncated.dcm": "cut off",
    "pydicom_pydicom/meta_missing_tsyntax.dcm": "Transfer Syntax",
    "pydicom_pylibjpeg-data/966.dcm": "decoded",
}
_MOST = 64_000_000


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is some."""
    memory = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    yield made
    shutil.rmtree(made)


def image_of(name: str, folder: Path) -> Image:
    return open_image(*kept(BytesIO((CORPUS / name).read_bytes()), folder))


def has_image(name: str) -> bool:
    try:
        data = pydicom.dcmread(CORPUS / name, force=True)
        rows = int(data.get("Rows") or 0)
    except Exception:
        return False
    pixels = any(keyword in data for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))
    return rows > 0 and pixels and "PhotometricInterpretation" in data


@pytest.mark.parametrize("name", FILES)
def test_a_picture_or_the_reason_why_there_is_none(name: str, folder: Path) -> None:
    try:
        image = image_of(name, folder)
        pictures = [
            cv2.imdecode(np.frombuffer(render(image, asked, max_pixels=_MOST).body, np.uint8), cv2.IMREAD_UNCHANGED)
            for asked in (Picture(frame=1), Picture(frame=image.frames, format="jpeg", viewport=(64, 64)))
        ]
    except InvalidDataSet as error:
        reason = str(error)
    else:
        reason = ""
    if reason:
        assert _DAMAGED.get(name, "has no image") in reason
        assert name in _DAMAGED or not has_image(name)
        return
    assert name not in _DAMAGED
    longest = max(image.header.Rows, image.header.Columns)
    assert [max(found.shape[:2]) for found in pictures] == [min(longest, 4096) if longest > 4096 else longest, 64]


@pytest.mark.parametrize("name", FILES)
def test_decoded_frames_are_those_that_pydicom_sees(name: str, folder: Path) -> None:
    if name in _DAMAGED or not has_image(name):
        pytest.skip("has no image that can be decoded")
    image = image_of(name, folder)
    data = pydicom.dcmread(CORPUS / name, force=True)
    if not hasattr(data.file_meta, "TransferSyntaxUID"):
        data.file_meta.TransferSyntaxUID = UID(image.instance.transfer_syntax)
    try:
        wanted = data.pixel_array
    except Exception as error:
        pytest.skip(f"pydicom cannot decode it: {str(error)[:80]}")
    wanted = wanted if image.frames > 1 else wanted[np.newaxis]
    for index in {0, image.frames - 1}:
        found = decode(image, index, max_samples=_MOST)
        assert found.shape == wanted[index].shape
        if found.ndim == 3 or int(data.get("BitsAllocated", 8)) > 16:
            assert np.abs(found.astype(float) - wanted[index].astype(float)).mean() < 2
            continue
        bits = int(data.get("BitsStored") or data.BitsAllocated)
        mask = (1 << bits) - 1  # what lies above is nobody's grey value
        difference = (found.astype(np.int64) & mask) - (wanted[index].astype(np.int64) & mask)
        assert np.abs(difference).mean() <= (1 if UID(image.instance.transfer_syntax).is_compressed else 0)


@pytest.mark.parametrize("name", FILES)
def test_attributes_are_those_that_pydicom_reads(name: str, folder: Path) -> None:
    data = pydicom.dcmread(CORPUS / name, force=True)
    try:
        store, instance = kept(BytesIO((CORPUS / name).read_bytes()), folder)
        wanted = data.to_json_dict(
            bulk_data_threshold=1024, bulk_data_element_handler=lambda _: "", suppress_invalid_tags=True
        )
    except Exception as error:
        pytest.skip(f"pydicom cannot write it as JSON, or it is no DICOM file: {str(error)[:80]}")
    found = json_of(store, instance, lambda place: place)
    for tag in sorted(set(wanted) - _OWN):
        if _is_private(tag) or tag > "7FE00010" or tag not in found:
            continue  # private VRs, of which pydicom knows many; padding behind the pixels; what cannot be read
        assert _comparable(found[tag]) == _comparable(wanted[tag]), tag
    lost = {tag for tag in set(wanted) - set(found) - _OWN if wanted[tag] is not None and not tag.endswith("0000")}
    assert {tag for tag in lost if tag < "7FE00010"} <= _TRUNCATED.get(name, set())


# From the index, or as JSON wants them; the VR of pixels, which pydicom corrects.
_OWN = {"00083002", "00080005", "00080016", "00080018", "0020000D", "0020000E", "7FE00010"}
_TRUNCATED = {"pydicom_pydicom/rtplan_truncated.dcm": {"300A00B0"}}


def _is_private(tag: str) -> bool:
    """Whether it is the tag of a private attribute or of a group length."""
    return re.fullmatch("[0-9A-F]{3}([13579BDF][0-9A-F]{4}|[0-9A-F]0000)", tag) is not None


def _comparable(value: Any) -> Any:
    """Without what may differ: how a missing value or a long one is written, private attributes, last digits."""
    if isinstance(value, dict):
        if "BulkDataURI" in value or "InlineBinary" in value:
            return {"vr": str(value["vr"])}
        if value.get("vr") == "SQ" and not value.get("Value"):
            return {"vr": "SQ"}
        return {key: _comparable(one) for key, one in value.items() if key != "00080005" and not _is_private(key)}
    if isinstance(value, list):
        return [_comparable(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return value.strip() or None if isinstance(value, str) else value
