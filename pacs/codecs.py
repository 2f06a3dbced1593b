"""One frame in or out of a compressed transfer syntax, without loss where it is compressed (PS3.5 8.2).

One library does it for each transfer syntax, and never gdcm: its C++ exceptions end the process on streams that were
made to do so.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping
from typing import Any

from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import UID

from storage.codestream import panics_are_errors
from storage.errors import NotTranscodable, SanglocError

__all__ = ["DECODED", "LOSSLESS", "decode", "encode"]

logging.getLogger("pydicom.pixels").setLevel(logging.CRITICAL)  # what was wrong with a frame stands in NotTranscodable

_ENCODERS = {
    "1.2.840.10008.1.2.5": "pylibjpeg",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",
}
_DECODERS = {  # '': imagecodecs, which is also asked where pillow declines
    "1.2.840.10008.1.2.4.50": "pillow",
    "1.2.840.10008.1.2.4.51": "pillow",
    "1.2.840.10008.1.2.4.53": "",
    "1.2.840.10008.1.2.4.55": "",
    "1.2.840.10008.1.2.4.57": "",
    "1.2.840.10008.1.2.4.70": "",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.5": "pylibjpeg",
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203)), "pylibjpeg"),
}
LOSSLESS = frozenset(_ENCODERS)
"""Transfer syntaxes that are made: RLE, JPEG-LS, JPEG 2000, each without loss."""

DECODED = frozenset(_DECODERS)
"""Compressed transfer syntaxes that are decoded."""

# Their frames hold YBR as RGB or as what no native form keeps: DCMTK and others decode them to RGB too.
_TO_RGB = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 90, 91, 92, 93, 201, 202, 203))
_ITEM = b"\xfe\xff\x00\xe0"


def decode(stream: bytes, syntax: str, image: Mapping[str, Any]) -> tuple[Any, str]:
    """A frame as an array [rows, columns(, samples)], and its photometric interpretation now.

    Args:
        stream: the code stream.
        syntax: the transfer syntax it is in.
        image: what the image pixel module says, by the names of pydicom's decoders.

    Raises:
        NotTranscodable: it is damaged, or of a kind that is not decoded.
    """
    try:
        with panics_are_errors():
            return _decode(stream, syntax, {**image, "number_of_frames": 1, "pixel_keyword": "PixelData"})
    except (SanglocError, MemoryError):
        raise
    except Exception as error:  # the libraries raise whatever a damaged stream makes them meet
        raise NotTranscodable(f"a frame cannot be decoded: {' '.join(str(error).split())[:200]}") from error


def encode(frame: Any, syntax: str, image: Mapping[str, Any]) -> bytes:
    """The code stream of a frame, of even length; raises `NotTranscodable`."""
    options = {**image, "number_of_frames": 1, "planar_configuration": 0}
    try:
        stream = get_encoder(UID(syntax)).encode(frame, encoding_plugin=_ENCODERS[syntax], **options)
    except (RuntimeError, ValueError, NotImplementedError, AttributeError) as error:
        raise NotTranscodable(f"a frame cannot be written as {UID(syntax).name}: {error}") from error
    return bytes(stream) + bytes(len(stream) % 2)


def _decode(stream: bytes, syntax: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """One frame and its photometric interpretation."""
    plugin = _DECODERS[syntax]
    if not plugin:
        return _by_imagecodecs(stream, options), options["photometric_interpretation"]
    one = _ITEM + bytes(4) + _ITEM + struct.pack("<I", len(stream)) + stream
    decoder = get_decoder(UID(syntax))
    try:
        frame, made = decoder.as_array(one, index=0, raw=syntax not in _TO_RGB, decoding_plugin=plugin, **options)
    except RuntimeError:
        if plugin == "pillow" and options["samples_per_pixel"] == 1:  # such as JPEG with 12 bits
            return _by_imagecodecs(stream, options), options["photometric_interpretation"]
        raise
    return frame, str(made["photometric_interpretation"])


def _by_imagecodecs(stream: bytes, options: Mapping[str, Any]) -> Any:
    import imagecodecs  # noqa: PLC0415  (90 ms that few need)

    frame = imagecodecs.jpeg8_decode(stream)
    if frame.shape[:2] != (options["rows"], options["columns"]):
        raise ValueError(f"the compressed image is {frame.shape[1]} x {frame.shape[0]} pixels")
    return frame
