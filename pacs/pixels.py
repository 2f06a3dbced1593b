"""From one stored frame to an array: every transfer syntax that can be decoded, by the fastest decoder that takes it.

Sizes are checked against the header and the code stream before anything is decoded, so that a few kilobytes cannot ask
for gigabytes.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, ExplicitVRLittleEndian

from pacs.frames import Image
from pacs.scan import EXPLICIT_BIG_ENDIAN
from storage import codestream
from storage.codestream import panics_are_errors
from storage.errors import InvalidDataSet

__all__ = ["Array", "decode"]

Array = npt.NDArray[Any]

_FLOATS = {0x7FE00008: "f4", 0x7FE00009: "f8"}  # float and double float pixel data (PS3.3 C.7.6.24)
_RLE, _DEFLATED_FRAMES = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.8.1"
_LOSSLESS_JPEG = frozenset({"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"})
_CODECS = {  # transfer syntax (PS3.5 A.4) -> function of imagecodecs, for grey images
    "1.2.840.10008.1.2.4.50": "jpeg8_decode",
    "1.2.840.10008.1.2.4.51": "jpeg8_decode",
    "1.2.840.10008.1.2.4.53": "jpeg8_decode",
    "1.2.840.10008.1.2.4.55": "jpeg8_decode",
    "1.2.840.10008.1.2.4.57": "jpeg8_decode",
    "1.2.840.10008.1.2.4.70": "jpeg8_decode",
    "1.2.840.10008.1.2.4.80": "jpegls_decode",
    "1.2.840.10008.1.2.4.81": "jpegls_decode",
    "1.2.840.10008.1.2.4.201": "htj2k_decode",
    "1.2.840.10008.1.2.4.202": "htj2k_decode",
    "1.2.840.10008.1.2.4.203": "htj2k_decode",
}


def decode(image: Image, index: int, *, max_samples: int) -> Array:
    """Frame `index` (from 0): [rows, columns] as stored, or [rows, columns, 3] in RGB for a colour image.

    Palette indices stay indices. Grey values have only Bits Stored bits, with their sign.

    Raises:
        InvalidDataSet: too large, cut off, or in a form that cannot be decoded; the message says which.
    """
    header = image.header
    rows, columns, samples = int(header.Rows), int(header.Columns), int(header.get("SamplesPerPixel") or 1)
    if rows * columns * samples > max_samples:
        raise InvalidDataSet(f"the image is too large to be shown: {columns} x {rows} x {samples}")
    frame = image.frame(index)
    if image.encapsulated:
        _check_stream(frame, rows, columns)
    try:
        plain = _plain(image, frame)
        found = _fast(image, frame, plain) if samples == 1 else None
        if found is None:
            found = _by_pydicom(image, frame, plain)
    except Exception as error:  # decoders raise whatever damaged data makes them meet
        reason = str(error).strip().split("\n", 1)[0][:200]
        raise InvalidDataSet(f"the pixel data cannot be decoded: {reason}") from error
    return found if samples > 1 or found.dtype.kind == "f" else _clean(found, header)


def _check_stream(frame: bytes, rows: int, columns: int) -> None:
    inside = codestream.shape(frame)
    if inside is not None and inside != (rows, columns):
        raise InvalidDataSet(
            f"the compressed image is {inside[1]} x {inside[0]} pixels, its header says {columns} x {rows}"
        )


def _plain(image: Image, frame: bytes) -> bytes | None:
    """The native form of a frame; None for code streams."""
    if not image.encapsulated:
        return frame
    size = (image.frame_bits + 7) // 8
    if image.instance.transfer_syntax == _DEFLATED_FRAMES:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(frame, size + 1)
    if image.instance.transfer_syntax == _RLE and int(image.header.BitsAllocated) == 1:  # bits packed before
        import imagecodecs  # noqa: PLC0415

        return bytes(imagecodecs.dicomrle_decode(frame, "u1"))[:size]
    return None


def _fast(image: Image, frame: bytes, plain: bytes | None) -> Array | None:
    """Grey pixels without pydicom; None where they are not of the common kinds."""
    header = image.header
    shape, bits = (int(header.Rows), int(header.Columns)), int(header.BitsAllocated)
    signed = bool(header.get("PixelRepresentation"))
    if plain is not None and bits == 1:
        return np.unpackbits(np.frombuffer(plain, np.uint8), count=shape[0] * shape[1], bitorder="little").reshape(
            shape
        )
    if plain is not None:
        known = bits in (8, 16, 32) or image.tag in _FLOATS
        return _native(image, plain, bits, signed).reshape(shape) if known else None
    name = _CODECS.get(image.instance.transfer_syntax)
    if name is None:
        return None
    import imagecodecs  # noqa: PLC0415  (90 ms that a native image does not need)

    try:
        pixels = np.asarray(getattr(imagecodecs, name)(frame))
    except (RuntimeError, ValueError):  # its errors derive from RuntimeError; another decoder may be more lenient
        return None
    if pixels.shape != shape or pixels.dtype not in (np.uint8, np.uint16):
        return None
    return pixels.view(np.int16 if pixels.itemsize == 2 else np.int8) if signed else pixels


def _native(image: Image, frame: bytes, bits: int, signed: bool) -> Array:
    big = image.instance.transfer_syntax == EXPLICIT_BIG_ENDIAN
    kind = _FLOATS.get(image.tag, f"{'i' if signed else 'u'}{bits // 8}")
    pixels = np.frombuffer(frame, f"{'>' if big else '<'}{kind}")
    return pixels.astype(kind) if big else pixels


def _by_pydicom(image: Image, frame: bytes, plain: bytes | None) -> Array:
    header = image.header
    samples = int(header.get("SamplesPerPixel") or 1)
    options: dict[str, Any] = {
        "rows": int(header.Rows),
        "columns": int(header.Columns),
        "number_of_frames": 1,
        "samples_per_pixel": samples,
        "photometric_interpretation": str(header.PhotometricInterpretation),
        "bits_allocated": int(header.BitsAllocated),
        "bits_stored": int(header.get("BitsStored") or header.BitsAllocated),
        "pixel_representation": int(header.get("PixelRepresentation") or 0),
        "pixel_keyword": "PixelData",
        "pixel_vr": image.vr if image.vr in ("OB", "OW") else "OW",
    }
    if samples > 1:
        options["planar_configuration"] = int(header.get("PlanarConfiguration") or 0)
    syntax = UID(image.instance.transfer_syntax)
    if plain is not None and (syntax != EXPLICIT_BIG_ENDIAN or int(header.BitsAllocated) <= 8):
        syntax = ExplicitVRLittleEndian  # bytes come in their own order
    source = _encapsulate(frame) if plain is None else plain
    try:
        with panics_are_errors():
            pixels, _ = get_decoder(syntax).as_array(source, index=0, raw=samples == 1, **options)
    except RuntimeError:
        if syntax not in _LOSSLESS_JPEG:
            raise
        import imagecodecs  # noqa: PLC0415  (90 ms that few need)

        return np.asarray(imagecodecs.jpeg8_decode(frame))  # in colour, which the fast way leaves alone
    return pixels


def _encapsulate(frame: bytes) -> bytes:
    """An empty offset table and one fragment, as pydicom's decoders expect them (PS3.5 A.4)."""
    item = b"\xfe\xff\x00\xe0"
    return item + bytes(4) + item + len(frame).to_bytes(4, "little") + frame


def _clean(pixels: Array, header: Dataset) -> Array:
    """Clear (or fill with the sign) what lies above Bits Stored, where old overlays live; align the High Bit."""
    bits = int(header.get("BitsStored") or 8 * pixels.itemsize)
    spare = 8 * pixels.itemsize - bits
    if spare <= 0 or bits <= 0:
        return pixels
    high = header.get("HighBit")
    shift = int(high) + 1 - bits if high is not None and bits <= int(high) + 1 <= 8 * pixels.itemsize else 0
    if pixels.dtype.kind == "i":
        return np.right_shift(np.left_shift(pixels, spare - shift), spare)
    if shift:
        pixels = np.right_shift(pixels, shift)
    top = (1 << bits) - 1
    return np.bitwise_and(pixels, top) if int(pixels.max()) > top else pixels
