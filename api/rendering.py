"""A picture of one frame: decoded, windowed as the file or the viewer says, scaled down and encoded (PS3.18 8.3.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

from pacs.frames import Image
from pacs.pixels import decode
from storage.errors import InvalidDataSet

__all__ = ["Picture", "Rendered", "render"]

Array = npt.NDArray[Any]
Function = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]

_MOST_PIXELS = 64_000_000  # of a region that is scaled up


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What is asked for."""

    format: Literal["png", "jpeg"] = "png"
    size: int | None = None  # pixels of the longer side at most; never scaled up
    viewport: tuple[int, int] | None = None  # width and height that it is scaled to fit, up or down
    region: tuple[float | None, ...] | None = None  # x, y, width, height (None: all); a negative extent turns it over
    center: float | None = None  # of the window, in values after the modality LUT (PS3.3 C.11.2.1.2)
    width: float | None = None
    function: Function = "LINEAR"  # of that window
    quality: int = 90  # of JPEG, 1 to 100
    frame: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The encoded picture, and for grey images the window that was used and the range of values."""

    body: bytes
    window: tuple[float, float] | None = None  # centre, width
    values: tuple[float, float] | None = None  # smallest, largest


def render(image: Image, picture: Picture, *, max_pixels: int) -> Rendered:
    """One frame as PNG or JPEG, 8 bits.

    Raises:
        InvalidDataSet: no pixels, too many, or pixels that cannot be decoded; the message says which.
    """
    if not 1 <= picture.frame <= image.frames:
        raise InvalidDataSet(f"the instance has {image.frames} frames, number {picture.frame} is not one of them")
    header = _of_frame(image.header, picture.frame - 1)
    raw = _region(decode(image, picture.frame - 1, max_samples=max_pixels), picture)
    try:
        if header.PhotometricInterpretation == "PALETTE COLOR":
            return Rendered(body=_encode(_colour(apply_color_lut(raw, header), 16, picture), picture))
        if raw.ndim == 3:
            return Rendered(body=_encode(_colour(raw, int(header.BitsStored), picture), picture))
        return _grey(raw, header, picture)
    except InvalidDataSet:
        raise
    except Exception as error:  # look-up tables raise whatever damaged data makes them meet
        reason = str(error).strip().split("\n", 1)[0][:200]
        raise InvalidDataSet(f"the pixel data cannot be decoded: {reason}") from error


def _of_frame(header: Dataset, index: int) -> Dataset:
    """The header with the look-up tables of one frame of a multi-frame image (PS3.3 C.7.6.16.2.9, C.7.6.16.2.10)."""
    shared, own = header.get("SharedFunctionalGroupsSequence"), header.get("PerFrameFunctionalGroupsSequence")
    found: dict[str, Any] = {}
    for groups in (shared[0] if shared else None, own[index] if own and index < len(own) else None):
        for name in ("FrameVOILUTSequence", "PixelValueTransformationSequence"):
            macro = groups.get(name) if groups is not None else None
            found |= {one.keyword: one.value for one in macro[0]} if macro else {}
    if found:
        header = header.copy()
        for keyword in found.keys() & {
            "WindowCenter",
            "WindowWidth",
            "VOILUTFunction",
            "RescaleSlope",
            "RescaleIntercept",
        }:
            setattr(header, keyword, found[keyword])
    return header


def _region(raw: Array, picture: Picture) -> Array:
    """The part that was asked for, turned over where an extent is negative (PS3.18 8.3.5.1.3)."""
    if picture.region is None:
        return raw
    rows, columns = raw.shape[:2]
    x, y, width, height = (given or usual for given, usual in zip(picture.region, (0, 0, columns, rows), strict=True))
    left, right = (max(0, min(columns, round(at))) for at in (x, x + abs(width)))
    top, bottom = (max(0, min(rows, round(at))) for at in (y, y + abs(height)))
    if left >= right or top >= bottom:
        raise InvalidDataSet("the region lies outside of the image")
    return raw[top:bottom, left:right][:: -1 if height < 0 else 1, :: -1 if width < 0 else 1]


def _scaled(image: Array, picture: Picture) -> Array:
    """The image in its final size, averaged over areas so that fine structure does not alias."""
    rows, columns = image.shape[:2]
    if picture.viewport is not None:
        factor = min(picture.viewport[0] / columns, picture.viewport[1] / rows)
    else:
        factor = min(1.0, (picture.size or max(rows, columns)) / max(rows, columns))
    target = (max(1, round(columns * factor)), max(1, round(rows * factor)))
    if target == (columns, rows):
        return image
    if target[0] * target[1] > _MOST_PIXELS:
        raise InvalidDataSet("the picture would be too large")
    if image.dtype not in (np.uint8, np.uint16, np.int16, np.float32):
        image = image.astype(np.float32)
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(np.ascontiguousarray(image), target, interpolation=how))


def _colour(rgb: Array, bits: int, picture: Picture) -> Array:
    if rgb.dtype != np.uint8:
        bits = max(8, bits)
        rgb = (rgb >> (bits - 8)).astype(np.uint8)
    return np.ascontiguousarray(_scaled(rgb, picture)[..., 2::-1])  # OpenCV wants BGR


def _grey(raw: Array, header: Dataset, picture: Picture) -> Rendered:
    small = _scaled(raw, picture)  # before the float work: 30 ms instead of 120 for a radiograph
    values = apply_modality_lut(small, header).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if picture.center is not None and picture.width is not None:
        center, width = picture.center, picture.width
        shade = _window(values, center, width, picture.function)
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
        done, coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, picture.quality])
    else:
        done, coded = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise InvalidDataSet("the picture cannot be encoded")
    return coded.tobytes()
