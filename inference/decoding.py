"""From the bytes of one stored data set to the pixels as they were stored: every transfer syntax, within bounds.

A radiograph is 15 MB, so nothing is copied that need not be: the data set is read up to Pixel Data and native pixels
are a view of the object's bytes. Compressed ones go to the fastest decoder (imagecodecs; measured twice to four times
as fast) and, where that one declines, to pydicom's plugins one after another.

Sizes are checked against the header and against the code stream before anything is decoded, so that a few kilobytes
cannot ask for gigabytes.
"""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from storage import codestream
from storage.codestream import panics_are_errors
from storage.errors import NotScorable

__all__ = ["StoredPixels", "read_stored"]

MAX_SIDE_PX = 12_000
_MAX_INFLATED_BYTES = 320 << 20  # a deflated data set may grow to this: 12,000 x 12,000 x 2 and a header
_MAX_HEADER_VALUE = 1 << 20  # no attribute that is used is longer
_PIXEL_DATA = {0x7FE00008, 0x7FE00009, 0x7FE00010}
_UNDEFINED = 0xFFFFFFFF

_DEFLATED = "1.2.840.10008.1.2.1.99"
_IMPLICIT = "1.2.840.10008.1.2"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_NATIVE = {_DEFLATED, _IMPLICIT, _BIG_ENDIAN, "1.2.840.10008.1.2.1"}
_CODECS = {  # transfer syntax (PS3.5 A.4) -> function of imagecodecs
    "1.2.840.10008.1.2.4.50": "jpeg8_decode",
    "1.2.840.10008.1.2.4.51": "jpeg8_decode",
    "1.2.840.10008.1.2.4.57": "jpeg8_decode",
    "1.2.840.10008.1.2.4.70": "jpeg8_decode",
    "1.2.840.10008.1.2.4.80": "jpegls_decode",
    "1.2.840.10008.1.2.4.81": "jpegls_decode",
    "1.2.840.10008.1.2.4.201": "htj2k_decode",
    "1.2.840.10008.1.2.4.202": "htj2k_decode",
    "1.2.840.10008.1.2.4.203": "htj2k_decode",
}

_JPEG2000 = {"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"}

Pixels = npt.NDArray[np.integer[Any]]


class StoredPixels:
    """One grey frame as stored, before any look-up table.

    Attributes:
        header: the data set without pixel data.
        pixels: [rows, columns], signed or unsigned integers of 8 or 16 bits, bits above Bits Stored cleared.
        bits: Bits Stored (0028,0101), 1 to 16.
    """

    __slots__ = ("bits", "header", "pixels")

    def __init__(self, header: pydicom.Dataset, pixels: Pixels, bits: int) -> None:
        self.header = header
        self.pixels = pixels
        self.bits = bits


def read_stored(part10: bytes, dataset_offset: int, transfer_syntax: str, *, enough: int = 0) -> StoredPixels:
    """The single grey frame of a stored object whose data set starts at `dataset_offset`.

    Where `enough` pixels on the longest side are enough, JPEG 2000 gives a half, a quarter, ... of its size that still
    has as many: it is stored that way, and a radiograph is decoded in a twentieth of the time.

    Raises:
        NotScorable: there is no such frame, or it cannot be decoded; the reason is for a person.
        Exception: whatever a damaged file made the libraries meet (`inference.pixels` gives that a reason too).
    """
    if transfer_syntax == _DEFLATED:
        part10, dataset_offset = _inflate(memoryview(part10)[dataset_offset:]), 0
    buffer = BytesIO(part10)  # shares the memory of a bytes object
    buffer.seek(dataset_offset)
    implicit, little = transfer_syntax == _IMPLICIT, transfer_syntax != _BIG_ENDIAN
    header = read_dataset(buffer, implicit, little, stop_when=_at_pixels, defer_size=_MAX_HEADER_VALUE)
    _check(header)
    bits = int(header.get("BitsStored") or header.BitsAllocated)
    if not 0 < bits <= header.BitsAllocated:
        raise NotScorable(f"{bits} bits stored in {header.BitsAllocated} make no sense")
    vr, length = _enter_pixels(buffer, transfer_syntax)
    if transfer_syntax in _NATIVE:
        swapped = not little and vr == b"OW"  # bytes in words; as OB they keep their order (PS3.5 A.3)
        pixels = _native(memoryview(part10)[buffer.tell() :], header, little=little, swapped=swapped)
    elif length == _UNDEFINED:
        pixels = _encapsulated(buffer, header, bits, UID(transfer_syntax), enough)
    else:
        raise NotScorable("the compressed pixel data is not in fragments (PS3.5 A.4)")
    return StoredPixels(header, _clean(pixels, header, bits), bits)


def _at_pixels(tag: int, *_vr_and_length: object) -> bool:
    return tag in _PIXEL_DATA


def _inflate(dataset: memoryview) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(dataset, _MAX_INFLATED_BYTES)
    if inflater.unconsumed_tail:
        raise NotScorable("the deflated data set is larger than any radiograph")
    return inflated


def _check(header: pydicom.Dataset) -> None:
    rows, columns = header.get("Rows") or 0, header.get("Columns") or 0
    if not rows or not columns:
        raise NotScorable("there is no image in it: 0 rows or columns")
    if max(rows, columns) > MAX_SIDE_PX:
        raise NotScorable(f"the image is too large to read: {columns} x {rows} pixels")
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise NotScorable(f"it has {header.NumberOfFrames} frames: only single images are read")
    grey = header.get("PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")
    if not grey or (header.get("SamplesPerPixel") or 1) != 1:
        raise NotScorable(f"it is not a grey image: {header.get('PhotometricInterpretation') or 'nothing says so'}")
    if header.get("BitsAllocated") not in (8, 16):
        raise NotScorable(f"{header.get('BitsAllocated')} bits a pixel cannot be read: 8 to 16 can")


def _enter_pixels(buffer: BytesIO, transfer_syntax: str) -> tuple[bytes, int]:
    """VR and length of Pixel Data (7FE0,0010); leads the buffer from its tag to its value (PS3.5 7.1)."""
    order: Literal["big", "little"] = "big" if transfer_syntax == _BIG_ENDIAN else "little"
    head = buffer.read(8)
    if len(head) < 8:
        raise NotScorable("there is no image in it: Pixel Data is missing")
    if head[:4] != (b"\x7f\xe0\x00\x10" if order == "big" else b"\xe0\x7f\x10\x00"):
        raise NotScorable("the pixels are floating point numbers, not grey values")
    if transfer_syntax == _IMPLICIT:
        return b"OW", int.from_bytes(head[4:], order)
    return head[4:6], int.from_bytes(buffer.read(4), order)


def _native(value: memoryview, header: pydicom.Dataset, *, little: bool, swapped: bool) -> Pixels:
    rows, columns, size = header.Rows, header.Columns, header.BitsAllocated // 8
    needed = rows * columns * size
    if len(value) < needed:
        raise NotScorable(f"the pixel data is truncated: {len(value):,} of {needed:,} bytes")
    kind = "i" if header.get("PixelRepresentation") else "u"
    if swapped and size == 1:
        words = np.frombuffer(value[: needed + needed % 2], ">u2").astype("<u2")
        return words.view(f"{kind}1")[: rows * columns].reshape(rows, columns)
    pixels = np.frombuffer(value[:needed], f"{'<' if little else '>'}{kind}{size}").reshape(rows, columns)
    return pixels if little else pixels.astype(pixels.dtype.newbyteorder("="))


def _encapsulated(buffer: BytesIO, header: pydicom.Dataset, bits: int, syntax: UID, enough: int) -> Pixels:
    """Decode the one frame that the fragments hold, at whose first item the buffer stands (PS3.5 A.4)."""
    frame = get_frame(buffer, 0, number_of_frames=1)
    shape = (int(header.Rows), int(header.Columns))
    inside = codestream.shape(frame)
    if inside is not None and inside != shape:
        raise NotScorable(
            f"the compressed image is {inside[1]} x {inside[0]} pixels, its header says {shape[1]} x {shape[0]}"
        )
    halvings = _halvings(shape, enough) if syntax in _JPEG2000 and "PixelPaddingValue" not in header else 0
    smaller = _decode_smaller(frame, halvings) if halvings else None
    pixels = _decode_fast(frame, syntax) if smaller is None else smaller
    if pixels is None or (pixels.shape != shape and smaller is None) or pixels.dtype not in (np.uint8, np.uint16):
        pixels = _decode_pydicom(frame, syntax, header, bits)
    if header.get("PixelRepresentation") and pixels.dtype.kind == "u":
        pixels = pixels.view(np.int16 if pixels.itemsize == 2 else np.int8)
    return pixels


def _halvings(shape: tuple[int, int], enough: int) -> int:
    """How often the image can be halved and still have `enough` pixels on its longest side; 0 for no limit."""
    return max((max(shape) // enough).bit_length() - 1, 0) if enough else 0


def _decode_smaller(frame: bytes, halvings: int) -> Pixels | None:
    """A JPEG 2000 image at 1/2, 1/4, ... of its size; None where that cannot be had, or not unsigned in one component.

    The image is the lowest band of the wavelet transform, whose filter keeps grey values as they are (ISO/IEC 15444-1
    Annex F).
    """
    from PIL import Image  # noqa: PLC0415

    siz = frame.find(b"\xff\x4f\xff\x51", 0, 4096)
    components, depth = frame[siz + 40 : siz + 42], frame[siz + 42]  # Csiz, Ssiz (Annex A.5.1)
    if siz < 0 or components != b"\x00\x01" or depth > 15:  # 16 bits at most; the top bit means signed
        return None
    try:
        with Image.open(BytesIO(frame), formats=("JPEG2000",)) as image:
            setattr(image, "reduce", halvings)  # noqa: B010 - a property of this format, over a method of all others
            image.load()
            if image.mode not in ("L", "I;16"):
                return None
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # fewer levels than that, or damaged
        return None
    return np.asarray(np.right_shift(pixels, 8 * pixels.itemsize - depth - 1))  # Pillow fills the upper bits


def _decode_fast(frame: bytes, syntax: str) -> Pixels | None:
    name = _CODECS.get(syntax)
    if name is None:
        return None
    import imagecodecs  # noqa: PLC0415  (90 ms that a header or a native image does not need)

    try:
        return np.asarray(getattr(imagecodecs, name)(frame))
    except (RuntimeError, ValueError):  # its errors derive from RuntimeError; another decoder may be more lenient
        return None


def _decode_pydicom(frame: bytes, syntax: UID, header: pydicom.Dataset, bits: int) -> Pixels:
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise NotScorable(f"images in {syntax.name} cannot be decoded") from error
    options: dict[str, Any] = {
        "rows": int(header.Rows),
        "columns": int(header.Columns),
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "photometric_interpretation": header.PhotometricInterpretation,
        "bits_allocated": int(header.BitsAllocated),
        "bits_stored": bits,
        "pixel_representation": int(header.get("PixelRepresentation") or 0),
        "pixel_keyword": "PixelData",
    }
    try:
        with panics_are_errors():
            pixels, _ = decoder.as_array(_encapsulate(frame), index=0, raw=True, **options)
    except RuntimeError as error:  # one line for each plugin that failed
        raise NotScorable(f"the {syntax.name} image cannot be decoded: it is damaged or cut off") from error
    return pixels


def _encapsulate(frame: bytes) -> bytes:
    """An empty offset table and one fragment, as pydicom's decoders expect them (PS3.5 A.4)."""
    item = b"\xfe\xff\x00\xe0"
    return item + bytes(4) + item + len(frame).to_bytes(4, "little") + frame


def _clean(pixels: Pixels, header: pydicom.Dataset, bits: int) -> Pixels:
    """Clear (or fill with the sign) what lies above Bits Stored, where old overlays live; align the High Bit."""
    spare = 8 * pixels.itemsize - bits
    high = header.get("HighBit")
    shift = int(high) + 1 - bits if high is not None and bits <= int(high) + 1 <= 8 * pixels.itemsize else 0
    if spare <= 0:
        return pixels
    if pixels.dtype.kind == "i":
        return np.right_shift(np.left_shift(pixels, spare - shift), spare)
    if shift:
        pixels = np.right_shift(pixels, shift)
    top = (1 << bits) - 1
    return np.bitwise_and(pixels, top) if int(pixels.max()) > top else pixels
