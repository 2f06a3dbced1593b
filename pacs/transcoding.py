"""A stored data set in another transfer syntax: header, pixel data and what follows, frame by frame (PS3.5 A).

Compressed frames are decoded by pydicom's plug-ins to native little endian; native or decoded frames are compressed
without loss to JPEG-LS, JPEG 2000 or RLE. Native pixel data is passed on, swapped where it was big endian. Never more
than a frame, or a megabyte of native pixel data, is in memory (a deflated data set is inflated whole, within bounds).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import UID

from pacs.elements import PIXEL_TAGS, UNDEFINED, DataSet, Element, inflated, read_header
from pacs.reencoding import Encoding, Replacement, corrected, element_bytes, reencoded
from pacs.scan import DEFLATED, EXPLICIT_BIG_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from storage.errors import InvalidDataSet, NotTranscodable, SanglocError
from storage.objects import Buffer, ObjectStore
from storage.retrieval import StoredInstance

__all__ = ["LOSSLESS", "NATIVE", "can_make", "transcoded"]

EXPLICIT = "1.2.840.10008.1.2.1"
_DEFLATED_EXPLICIT = "1.2.840.10008.1.2.1.99"
NATIVE = frozenset({IMPLICIT_LITTLE_ENDIAN, EXPLICIT, _DEFLATED_EXPLICIT, EXPLICIT_BIG_ENDIAN})
"""Transfer syntaxes whose pixel data is not compressed; all but big endian are made."""

# One plug-in for each, never gdcm: its C++ exceptions end the process on streams that were made to.
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
"""Compressed ones that are made: RLE, JPEG-LS, JPEG 2000, each without loss."""

# Their frames hold YBR as RGB or as what no native form keeps: DCMTK and others decode them to RGB too.
_TO_RGB = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 90, 91, 92, 93, 201, 202, 203))
_CHUNK_BYTES = 1 << 20
_MOST_NATIVE_BYTES = 0xFFFFFFFE  # of a value (PS3.5 7.1)
_MOST_FRAME_BYTES = 1 << 30
_PIXEL_DATA, _OFFSETS, _OFFSET_LENGTHS = 0x7FE00010, 0x7FE00001, 0x7FE00002
_PHOTOMETRIC, _PLANAR = 0x00280004, 0x00280006
_ITEM, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_IMAGE_TAGS = {
    0x00280002: "samples_per_pixel",
    _PHOTOMETRIC: "photometric_interpretation",
    _PLANAR: "planar_configuration",
    0x00280008: "number_of_frames",
    0x00280010: "rows",
    0x00280011: "columns",
    0x00280100: "bits_allocated",
    0x00280101: "bits_stored",
    0x00280103: "pixel_representation",
}


def can_make(stored: str, target: str) -> bool:
    """Whether objects in one transfer syntax can, as a rule, be sent in another."""
    if target not in LOSSLESS and (target not in NATIVE or target == EXPLICIT_BIG_ENDIAN):
        return False
    return stored in NATIVE or stored in _DECODERS


def transcoded(
    store: ObjectStore, instance: StoredInstance, target: str, corrections: Mapping[str, Any]
) -> Iterator[Buffer]:
    """The data set in the transfer syntax `target` (which may be that in which it is stored), with its corrections.

    Raises (while it is iterated):
        NotTranscodable: a frame cannot be decoded or encoded, or the object is damaged.
        NotFound, ObjectStoreUnavailable: of the store.
    """
    try:
        pieces = _pieces(store, instance, target, corrections)
        yield from _deflate(pieces) if target in DEFLATED else pieces
    except InvalidDataSet as error:
        raise NotTranscodable(f"The object is damaged: {error}") from error


def _pieces(
    store: ObjectStore, instance: StoredInstance, target: str, corrections: Mapping[str, Any]
) -> Iterator[Buffer]:
    stored = instance.transfer_syntax
    if stored in DEFLATED:
        data = inflated(store, instance)
        header, file, end = DataSet.of(data, 0, stored), BytesIO(data), len(data)
    else:
        header, _ = read_header(store, instance)
        file, end = store.open(instance.object_key), instance.object_size  # type: ignore[assignment]
    with closing(file):
        source = _Source(header, file, end, instance.transfer_syntax)
        encoding = Encoding.of(target)
        replaced, to_utf8 = corrected(header, corrections, encoding) if corrections else ({}, False)
        if (stored in NATIVE) == (target in NATIVE) and (stored in NATIVE or stored == target):
            yield from _same_pixels(source, encoding, replaced, to_utf8)
        else:
            yield from _other_pixels(source, UID(target), replaced, to_utf8)


@dataclass(frozen=True, slots=True)
class _Source:
    header: DataSet
    file: BinaryIO  # the object, or what a deflated one inflates to
    end: int  # of the data set in the file
    transfer_syntax: str

    def between(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes of the file from `start` to `end`."""
        self.file.seek(start)
        while start < end:
            chunk = self.file.read(min(_CHUNK_BYTES, end - start))
            if not chunk:
                raise InvalidDataSet("pixel data is cut off")
            start += len(chunk)
            yield chunk

    def behind(self, start: int, target: Encoding) -> bytes:
        """The elements behind pixel data, which begin at `start`."""
        data = b"".join(self.between(start, self.end))
        if not data:
            return b""
        rest = DataSet(data, 0, len(data), self.header.implicit, self.header.big_endian)
        return reencoded(rest, target)[0]


# ---- pixel data as it is


def _same_pixels(
    source: _Source, target: Encoding, replaced: Mapping[int, Replacement], to_utf8: bool
) -> Iterator[Buffer]:
    """The header rewritten; pixel data passed on (swapped, if it was big endian)."""
    header, pixels = reencoded(source.header, target, replaced, to_utf8=to_utf8)
    yield header
    if pixels is None:
        return
    if pixels.undefined:
        yield struct.pack("<HH2sxxI", pixels.tag >> 16, pixels.tag & 0xFFFF, b"OB", UNDEFINED)
        yield from source.between(pixels.start, source.end)
        return
    order = ">" if target.big_endian else "<"
    length = pixels.end - pixels.start
    vr = b"OW" if source.header.implicit and pixels.vr in {"OW", "UN"} else pixels.vr.encode()
    tag = (pixels.tag >> 16, pixels.tag & 0xFFFF)
    yield (
        struct.pack(order + "HHI", *tag, length)
        if target.implicit
        else struct.pack(order + "HH2sxxI", *tag, vr, length)
    )
    size = _word_bytes(source, pixels) if source.header.big_endian != target.big_endian else 1
    for chunk in source.between(pixels.start, pixels.end):
        yield chunk if size == 1 else np.frombuffer(chunk, f">u{size}").astype(f"<u{size}").tobytes()
    yield source.behind(pixels.end, target)


def _word_bytes(source: _Source, pixels: Element) -> int:
    """In words of which size big endian pixel data is swapped."""
    if pixels.vr == "OW":
        return max(2, int(_image(source.header)["bits_allocated"]) // 8)
    return {"OF": 4, "OD": 8}.get(pixels.vr, 1)


# ---- pixel data in another form


def _other_pixels(source: _Source, target: UID, replaced: Mapping[int, Replacement], to_utf8: bool) -> Iterator[Buffer]:
    encoding = Encoding.of(target)
    pixels = next((e for e in source.header.elements() if e.tag in PIXEL_TAGS), None)
    if pixels is None:  # a report in the transfer syntax of images: only the encoding of its header differs
        yield reencoded(source.header, encoding, replaced, to_utf8=to_utf8)[0]
        return
    if pixels.tag != _PIXEL_DATA:
        raise NotTranscodable("floating point pixels cannot be compressed")
    image = _image(source.header)
    frames = _frames(source, pixels, image)
    first = next(frames)  # tells what the decoder made of it
    changed: dict[int, Replacement] = {
        **replaced,
        _OFFSETS: None,
        _OFFSET_LENGTHS: None,
        _PHOTOMETRIC: element_bytes(_PHOTOMETRIC, "CS", image["photometric_interpretation"].encode(), encoding),
    }
    if image["samples_per_pixel"] > 1:
        changed[_PLANAR] = element_bytes(_PLANAR, "US", b"\0\0", encoding)
    yield reencoded(source.header, encoding, changed, to_utf8=to_utf8)[0]
    if target in NATIVE:
        yield from _native(image, first, frames, encoding)
    else:
        yield from _encoded(image, first, frames, target)
    yield source.behind(_end_of(source, pixels), encoding)


def _native(image: dict[str, Any], first: Any, frames: Iterator[Any], target: Encoding) -> Iterator[Buffer]:
    count = int(image["number_of_frames"])
    length = first.nbytes * count
    padded = length + length % 2
    if padded > _MOST_NATIVE_BYTES:
        raise NotTranscodable("the pixel data is too long for an uncompressed transfer syntax (PS3.5 7.1)")
    if target.implicit:
        yield struct.pack("<HHI", 0x7FE0, 0x0010, padded)
    else:
        yield struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OW" if first.itemsize > 1 else b"OB", padded)
    yield first.tobytes()
    made = 1
    for frame in frames:
        made += 1
        yield frame.tobytes()
    if made != count:
        raise NotTranscodable(f"there are {made} frames, and Number of Frames says {count}")
    yield bytes(padded - length)


def _encoded(image: dict[str, Any], first: Any, frames: Iterator[Any], target: UID) -> Iterator[Buffer]:
    encoder = get_encoder(target)
    options = {**image, "number_of_frames": 1, "planar_configuration": 0}
    yield struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OB", UNDEFINED) + _ITEM + bytes(4)
    frame = first
    while frame is not None:
        try:
            stream = encoder.encode(frame, encoding_plugin=_ENCODERS[target], **options)
        except (RuntimeError, ValueError, NotImplementedError, AttributeError) as error:
            raise NotTranscodable(f"a frame cannot be written as {target.name}: {error}") from error
        padding = bytes(len(stream) % 2)
        yield _ITEM + struct.pack("<I", len(stream) + len(padding)) + stream + padding
        frame = next(frames, None)
    yield _SEQUENCE_END + bytes(4)


def _frames(source: _Source, pixels: Element, image: dict[str, Any]) -> Iterator[Any]:
    """Each frame as an array [rows, columns(, samples)] in native byte order; `image` is told what was made of it."""
    samples = image["samples_per_pixel"]
    shape = (image["rows"], image["columns"], *((samples,) if samples > 1 else ()))
    dtype = np.dtype(f"{'i' if image['pixel_representation'] else 'u'}{max(1, image['bits_allocated'] // 8)}")
    size = int(np.prod(shape)) * dtype.itemsize
    if not 0 < size <= _MOST_FRAME_BYTES or image["bits_allocated"] not in {8, 16, 32}:
        raise NotTranscodable(f"frames of {size} bytes with {image['bits_allocated']} bits a sample cannot be coded")
    if pixels.undefined:
        yield from _decoded(source, pixels, image, dtype)
        return
    swapped = _word_bytes(source, pixels) if source.header.big_endian else 1
    if (size % swapped and image["number_of_frames"] > 1) or "_42" in image["photometric_interpretation"]:
        raise NotTranscodable("native frames that are no whole words, or with fewer chroma samples, are not coded")
    planar = image.get("planar_configuration") == 1 and samples > 1
    image["planar_configuration"] = 0
    at = pixels.start
    for _ in range(int(image["number_of_frames"])):
        raw = b"".join(source.between(at, at + size + size % swapped))
        at += size
        if swapped > 1:
            raw = np.frombuffer(raw, f">u{swapped}").astype(f"<u{swapped}").tobytes()
        frame = np.frombuffer(raw[:size], dtype.newbyteorder("<"))
        yield np.moveaxis(frame.reshape(shape[2], *shape[:2]), 0, 2).copy() if planar else frame.reshape(shape)


def _decoded(source: _Source, pixels: Element, image: dict[str, Any], dtype: np.dtype[Any]) -> Iterator[Any]:
    offsets = tuple(source.header.value(e) for e in source.header.elements() if e.tag in {_OFFSETS, _OFFSET_LENGTHS})
    options = {**image, "number_of_frames": 1, "pixel_keyword": "PixelData"}
    source.file.seek(pixels.start)
    streams = generate_frames(
        source.file,
        number_of_frames=int(image["number_of_frames"]),
        extended_offsets=offsets if len(offsets) == 2 else None,
    )
    while True:
        try:
            stream = next(streams, None)
            if stream is None:
                return
            frame, image["photometric_interpretation"] = _decode(stream, source.transfer_syntax, options)
        except (SanglocError, MemoryError):
            raise
        except Exception as error:  # the libraries raise whatever a damaged stream makes them meet
            raise NotTranscodable(f"a frame cannot be decoded: {' '.join(str(error).split())[:200]}") from error
        image["planar_configuration"] = 0
        yield frame.astype(dtype, copy=False)


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


def _end_of(source: _Source, pixels: Element) -> int:
    """Where the element behind pixel data begins."""
    if not pixels.undefined:
        return pixels.end
    at = pixels.start
    while at + 8 <= source.end:
        source.file.seek(at)
        tag, length = struct.unpack("<4sI", source.file.read(8))
        at += 8 + (length if tag == _ITEM else 0)
        if tag != _ITEM:
            break
    return at


def _image(header: DataSet) -> dict[str, Any]:
    """The attributes of the image pixel module that decoders and encoders want (PS3.3 C.7.6.3)."""
    found: dict[str, Any] = {
        "number_of_frames": 1, "pixel_representation": 0, "samples_per_pixel": 1, "photometric_interpretation": ""
    }  # fmt: skip
    for element in header.elements():
        name = _IMAGE_TAGS.get(element.tag)
        value = header.value(element) if name else b""
        if not name or (not value.strip(b" \0") and element.vr in {"CS", "IS"}):
            continue
        if element.vr in {"CS", "IS"}:
            text = value.split(b"\\")[0].strip(b" \0").decode("latin-1")
            found[name] = text if element.vr == "CS" else _integer(text)
        elif len(value) >= 2:
            found[name] = int.from_bytes(value[:2], "big" if header.big_endian else "little")
    missing = {"rows", "columns", "bits_allocated"} - found.keys()
    if missing:
        raise NotTranscodable(f"the image has no {', '.join(sorted(missing))}")
    found.setdefault("bits_stored", found["bits_allocated"])
    return found


def _integer(text: str) -> int:
    try:
        return int(text[:12])
    except ValueError as error:
        raise NotTranscodable("Number of Frames is no number") from error


def _deflate(pieces: Iterator[Buffer]) -> Iterator[Buffer]:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    total = 0
    for piece in pieces:
        if out := deflater.compress(piece):
            total += len(out)
            yield out
    out = deflater.flush()
    yield out + b"\0" * ((total + len(out)) % 2)  # PS3.5 A.5
