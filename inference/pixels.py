"""From a stored object to the grey image that a radiologist would see: 0 black to 255 white, MONOCHROME1 turned over.

The image is made small first and only then put through the look-up tables: a tenth of the work, and the model sees no
more anyway. Window: the first VOI LUT, else the first window of the header, else (none, or one that shows nothing) the
0.5 to 99.5 percentile of the image (PS3.3 C.11.1, C.11.2).
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels.processing import apply_modality_lut, apply_voi

from inference.decoding import StoredPixels, read_stored
from inference.eligibility import view_of
from storage.errors import NotScorable

__all__ = ["read_pixels"]

_SHOWS_NOTHING = 0.95  # a window that turns more than this share black or white is not meant for this image
_PERCENTILES = (0.005, 0.995)

Grey = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float32]


def read_pixels(part10: bytes, dataset_offset: int, transfer_syntax: str, *, max_side: int = 512) -> Grey:
    """The image as uint8 [rows, columns], longest side at most `max_side` px.

    Args:
        part10: the object as stored.
        dataset_offset: bytes before the data set, that is preamble and file meta.
        transfer_syntax: UID of the data set's transfer syntax.
        max_side: longest side of the result, px; a smaller image keeps its size.

    Raises:
        NotScorable: there is no single grey frontal image in it, or it cannot be decoded; trying again will not help.
    """
    try:
        stored = read_stored(part10, dataset_offset, transfer_syntax, enough=max_side)
        _refuse(stored.header)
        return _to_grey(stored, max_side)
    except (NotScorable, MemoryError):
        raise
    except Exception as error:  # the libraries raise whatever a damaged file makes them meet
        brief = " ".join(str(error).split())[:200] or type(error).__name__
        raise NotScorable(f"the image cannot be decoded: {brief}") from error


def _to_grey(stored: StoredPixels, max_side: int) -> Grey:
    """Stored pixels as they are shown: uint8 [rows, columns], longest side at most `max_side` px."""
    header = stored.header
    small = _shrink(_without_padding(stored), max_side)
    values = np.asarray(apply_modality_lut(small, header))
    shown = _through_lut(values, header)
    if shown is None:
        shown = _through_window(values.astype(np.float32), header)
    if shown is None or _shows_nothing(shown):
        shown = _through_percentiles(values.astype(np.float32))
    grey = np.rint(shown * 255).astype(np.uint8)
    return ~grey if header.PhotometricInterpretation == "MONOCHROME1" else grey


def _refuse(header: pydicom.Dataset) -> None:
    """What only the whole header tells: raw detector data, and a lateral view that has a code but no View Position."""
    if header.get("PresentationIntentType") == "FOR PROCESSING":
        raise NotScorable("raw detector data (For Processing) is not read by the model")
    codes = header.get("ViewCodeSequence") or ()
    meaning = str(codes[0].get("CodeMeaning", "")) if codes else ""
    if view_of(meaning) in ("lateral", "both") and not header.get("ViewPosition"):
        raise NotScorable(f"lateral or oblique view (view code: {meaning}): only frontal chest radiographs are read")


def _without_padding(stored: StoredPixels) -> npt.NDArray[np.integer[Any]]:
    """Pixels that the detector never saw made black, so that they do not blend into the image (PS3.3 C.7.5.1.1.2)."""
    pixels, header = stored.pixels, stored.header
    low = header.get("PixelPaddingValue")
    if low is None:
        return pixels
    high = header.get("PixelPaddingRangeLimit")
    low, high = sorted((int(low), int(low if high is None else high)))
    padding = (pixels >= low) & (pixels <= high)
    if not padding.any() or padding.all():
        return pixels
    seen = pixels[~padding]
    black = seen.max() if header.PhotometricInterpretation == "MONOCHROME1" else seen.min()
    return np.where(padding, black, pixels)


def _shrink(pixels: npt.NDArray[np.integer[Any]], max_side: int) -> npt.NDArray[np.integer[Any]]:
    if pixels.dtype == np.int8:  # OpenCV resizes no signed bytes
        pixels = pixels.astype(np.int16)
    rows, columns = pixels.shape
    scale = max_side / max(rows, columns)
    if scale >= 1:
        return pixels
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    return np.asarray(cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA))


def _through_lut(values: npt.NDArray[Any], header: pydicom.Dataset) -> Values | None:
    """0 to 1 through the first VOI LUT (PS3.3 C.11.2.1.1); None without one that can be used."""
    if not header.get("VOILUTSequence"):
        return None
    try:
        table = header.VOILUTSequence[0]
        if table["LUTData"].VR == "OW":  # words: pydicom wants to know their byte order from file meta
            order = "<u2" if header.original_encoding[1] else ">u2"
            table.add_new("LUTData", "US", np.frombuffer(table.LUTData, order).tolist())
        shown = apply_voi(np.rint(values).astype(np.int32), header)
        return shown.astype(np.float32) / float((1 << int(table.LUTDescriptor[2])) - 1)
    except (AttributeError, IndexError, KeyError, NotImplementedError, TypeError, ValueError):
        return None  # a broken table: the window or the percentiles will do


def _through_window(values: Values, header: pydicom.Dataset) -> Values | None:
    """0 to 1 through the first window and its function (PS3.3 C.11.2.1.2, C.11.2.1.3); None without a valid one."""
    center, width = _first(header, "WindowCenter"), _first(header, "WindowWidth")
    function = str(header.get("VOILUTFunction") or "LINEAR")
    if center is None or width is None or width < (1 if function == "LINEAR" else 1e-6):
        return None
    if function == "SIGMOID":
        steps = np.clip(-4 * (values - center) / width, -50, 50)
        return np.asarray(1 / (1 + np.exp(steps)), np.float32)
    if function == "LINEAR":
        center, width = center - 0.5, max(width - 1, 1e-6)
    return np.asarray(np.clip((values - center) / width + 0.5, 0, 1), np.float32)


def _through_percentiles(values: Values) -> Values:
    low, high = np.quantile(values, _PERCENTILES)
    if not high > low:
        low, high = values.min(), values.max()
    if not (high > low and np.isfinite(high - low)):
        raise NotScorable("the image is blank: all pixels have the same value")
    return np.asarray(np.clip((values - low) / (high - low), 0, 1), np.float32)


def _shows_nothing(shown: Values) -> bool:
    return bool(max(np.mean(shown <= 0.0), np.mean(shown >= 1.0), np.mean(np.isnan(shown))) > _SHOWS_NOTHING)


def _first(header: pydicom.Dataset, keyword: str) -> float | None:
    value = header.get(keyword)
    if isinstance(value, pydicom.multival.MultiValue):
        value = value[0] if value else None
    return None if value is None or value == "" else float(value)
