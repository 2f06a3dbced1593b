"""A picture of one frame: decoded, windowed as the file or the viewer says, scaled down and encoded."""

from __future__ import annotations

from dataclasses import dataclass
from os import SEEK_CUR
from typing import Any, BinaryIO, Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import pixel_array

from storage import codestream
from storage.errors import InvalidDataSet

__all__ = ["Picture", "Rendered", "render"]

Array = npt.NDArray[Any]

_TAGS = [
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "WindowCenter",
    "WindowWidth", "VOILUTFunction", "VOILUTSequence", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
]  # fmt: skip
_JPEG_QUALITY = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What is asked for."""

    format: Literal["png", "jpeg"] = "png"
    size: int = 1024  # pixels of the longer side at most; never scaled up
    center: float | None = None  # of the window, in values after the modality LUT (PS3.3 C.11.2.1.2)
    width: float | None = None
    frame: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The encoded picture, and for grey images the window that was used and the range of values."""

    body: bytes
    window: tuple[float, float] | None = None  # centre, width
    values: tuple[float, float] | None = None  # smallest, largest


def render(file: BinaryIO, picture: Picture, *, max_pixels: int) -> Rendered:
    """One frame of a Part 10 file as PNG or JPEG, 8 bits.

    Raises:
        InvalidDataSet: no pixels, too many, or pixels that cannot be decoded; the message says which.
    """
    header = _header(file, picture, max_pixels)
    file.seek(0)
    try:
        raw = pixel_array(file, index=picture.frame - 1)
        if header.PhotometricInterpretation == "PALETTE COLOR":
            return Rendered(body=_encode(_colour(apply_color_lut(raw, header), 16, picture), picture))
        if raw.ndim == 3:
            return Rendered(body=_encode(_colour(raw, int(header.BitsStored), picture), picture))
        return _grey(raw, header, picture)
    except InvalidDataSet:
        raise
    except Exception as error:  # decoders and look-up tables raise whatever damaged data makes them meet
        reason = str(error).strip().split("\n", 1)[0][:200]
        raise InvalidDataSet(f"the pixel data cannot be decoded: {reason}") from error


def _header(file: BinaryIO, picture: Picture, max_pixels: int) -> Dataset:
    """The image's attributes; refuses before anything is decoded what would not fit in memory."""
    try:
        header = dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
        rows, columns = int(header.Rows), int(header.Columns)
        samples = int(header.get("SamplesPerPixel") or 1)
        frames = int(header.get("NumberOfFrames") or 1)
        known = bool(header.PhotometricInterpretation) and int(header.BitsStored) > 0
        syntax = header.file_meta.TransferSyntaxUID
    except InvalidDicomError as error:
        raise InvalidDataSet("the file is not DICOM Part 10") from error
    except Exception as error:  # attributes that are missing or make no sense, whatever pydicom makes of them
        raise InvalidDataSet("the instance has no image") from error
    if not known:
        raise InvalidDataSet("the instance has no image that says how it is to be shown")
    if rows * columns * samples == 0:
        raise InvalidDataSet(f"the image has no pixels: {columns} x {rows}")
    if rows * columns * samples > max_pixels:
        raise InvalidDataSet(f"the image is too large to be shown: {columns} x {rows} x {samples}")
    if not 1 <= picture.frame <= frames:
        raise InvalidDataSet(f"the instance has {frames} frames, number {picture.frame} is not one of them")
    if syntax.is_encapsulated:
        _check_code_stream(file, picture.frame - 1, frames, (rows, columns))
    return header


def _check_code_stream(file: BinaryIO, index: int, frames: int, stated: tuple[int, int]) -> None:
    """Refuse a frame that unpacks to more than its header says: a few kilobytes can hold gigabytes of zeros.

    The file stands at the tag of Pixel Data (7FE0,0010), whose value begins 12 bytes on (PS3.5 7.1.2).
    """
    file.seek(12, SEEK_CUR)
    try:
        inside = codestream.shape(get_frame(file, index, number_of_frames=frames))
    except Exception as error:  # whatever a damaged sequence of fragments makes pydicom meet
        raise InvalidDataSet("the pixel data cannot be decoded: its fragments are damaged (PS3.5 A.4)") from error
    if inside is not None and inside != stated:
        raise InvalidDataSet(
            f"the compressed image is {inside[1]} x {inside[0]} pixels, its header says {stated[1]} x {stated[0]}"
        )


def _scaled(image: Array, size: int) -> Array:
    """The image with its longer side at most `size`, averaged over areas so that fine structure does not alias."""
    rows, columns = image.shape[:2]
    factor = size / max(rows, columns)
    if factor >= 1:
        return image
    target = (max(1, round(columns * factor)), max(1, round(rows * factor)))
    if image.dtype not in (np.uint8, np.uint16, np.int16, np.float32):
        image = image.astype(np.float32)
    return np.asarray(cv2.resize(image, target, interpolation=cv2.INTER_AREA))


def _colour(rgb: Array, bits: int, picture: Picture) -> Array:
    if rgb.dtype != np.uint8:
        bits = max(8, bits)
        rgb = (rgb >> (bits - 8)).astype(np.uint8)
    return np.ascontiguousarray(_scaled(rgb, picture.size)[..., 2::-1])  # OpenCV wants BGR


def _grey(raw: Array, header: Dataset, picture: Picture) -> Rendered:
    small = _scaled(raw, picture.size)  # before the float work: 30 ms instead of 120 for a radiograph
    values = apply_modality_lut(small, header).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if picture.center is not None and picture.width is not None:
        center, width = picture.center, picture.width
        shade = _window(values, center, width, "LINEAR")
    elif "VOILUTSequence" in header and header.VOILUTSequence:
        shade = _voi_lut(values, header.VOILUTSequence[0])
        center, width = (low + high) / 2, max(high - low, 1.0)
    else:
        center, width, function = _window_of(header, small, values)
        shade = _window(values, center, width, function)
    if header.PhotometricInterpretation == "MONOCHROME1":  # the smallest value is white (PS3.3 C.7.6.3.1.2)
        shade = 1 - shade
    image = (np.clip(shade, 0, 1) * 255 + 0.5).astype(np.uint8)
    return Rendered(body=_encode(image, picture), window=(center, width), values=(low, high))


def _voi_lut(values: Array, table: Dataset) -> Array:
    """0 to 1 by a VOI LUT (PS3.3 C.11.2.1.1): entries, first value mapped, bits of an entry."""
    entries, first, bits = (int(value) for value in table.LUTDescriptor)
    entries = entries or 1 << 16
    data = table.LUTData
    if isinstance(data, bytes):
        kind = "<u2" if len(data) >= 2 * entries else "u1"
        data = np.frombuffer(data, kind)
    lut = np.asarray(data, np.float32)[:entries] / float((1 << bits) - 1)
    return np.asarray(lut[np.clip(np.rint(values) - first, 0, len(lut) - 1).astype(np.int64)])


def _window_of(header: Dataset, small: Array, values: Array) -> tuple[float, float, str]:
    """The file's first window, else one that spans the middle 99 % of the values."""
    try:
        centers, widths = header.WindowCenter, header.WindowWidth
        center = float(centers[0] if not isinstance(centers, (int, float, str)) else centers)
        width = float(widths[0] if not isinstance(widths, (int, float, str)) else widths)
        if width > 0 and np.isfinite(center) and np.isfinite(width):
            return center, width, str(header.get("VOILUTFunction") or "LINEAR")
    except (AttributeError, IndexError, TypeError, ValueError):
        pass  # no window, or one that says nothing
    padding = header.get("PixelPaddingValue")
    kept = values[small != padding] if isinstance(padding, int) else values.ravel()
    low, high = np.percentile(kept if kept.size else values, (0.5, 99.5))
    return float(low + high) / 2, max(float(high - low), 1.0), "LINEAR_EXACT"


def _window(values: Array, center: float, width: float, function: str) -> Array:
    """0 to 1 by PS3.3 C.11.2.1.2.1 (LINEAR) or C.11.2.1.3 (SIGMOID, LINEAR_EXACT)."""
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -80, 80))))
    if function == "LINEAR_EXACT":
        return np.asarray((values - center) / width + 0.5)
    if width <= 1:
        return (values > center - 0.5).astype(np.float32)
    return np.asarray((values - (center - 0.5)) / (width - 1) + 0.5)


def _encode(image: Array, picture: Picture) -> bytes:
    if picture.format == "jpeg":
        done, coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    else:
        done, coded = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise InvalidDataSet("the picture cannot be encoded")
    return coded.tobytes()
