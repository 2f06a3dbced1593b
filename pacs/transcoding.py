"""A stored data set in another transfer syntax: header, pixel data and what follows, frame by frame (PS3.5 A).

Compressed frames are decoded by pydicom's plug-ins to native little endian; native or decoded frames are compressed
without loss to JPEG-LS, JPEG 2000 or RLE. Native pixel data is passed on, swapped where it was big endian. Never more
than a frame, or a megabyte of native pixel data, is in memory (a deflated data set is inflated whole, within bounds).
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from pydicom.encaps import generate_frames
from pydicom.uid import UID

from pacs.codecs import DECODED, LOSSLESS, decode, encode
from pacs.elements import PIXEL_TAGS, UNDEFINED, DataSet, Element, inflated, read_header
from pacs.reencoding import Encoding, Replacement, corrected, element_bytes, reencoded
from pacs.scan import DEFLATED, EXPLICIT_BIG_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from storage.errors import InvalidDataSet, NotTranscodable
from storage.objects import Buffer, ObjectStore
from storage.retrieval import StoredInstance

__all__ = ["NATIVE", "can_make", "transcoded"]

EXPLICIT = "1.2.840.10008.1.2.1"
_DEFLATED_EXPLICIT = "1.2.840.10008.1.2.1.99"
NATIVE = frozenset({IMPLICIT_LITTLE_ENDIAN, EXPLICIT, _DEFLATED_EXPLICIT, EXPLICIT_BIG_ENDIAN})
"""Transfer syntaxes whose pixel data is not compressed; all but big endian are made."""

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
    return stored in NATIVE or stored in DECODED


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
    length = (first.size * count + 7) // 8 if image["bits_allocated"] == 1 else first.nbytes * count
    padded = length + length % 2
    if padded > _MOST_NATIVE_BYTES:
        raise NotTranscodable("the pixel data is too long for an uncompressed transfer syntax (PS3.5 7.1)")
    if target.implicit:
        yield struct.pack("<HHI", 0x7FE0, 0x0010, padded)
    else:
        yield struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OW" if first.itemsize > 1 else b"OB", padded)
    made = 0
    everything = itertools.chain([first], frames)
    for piece in _packed(everything) if image["bits_allocated"] == 1 else (frame.tobytes() for frame in everything):
        made += len(piece)
        yield piece
    if made != length:
        raise NotTranscodable(f"the frames have {made} bytes, and Number of Frames says {length}")
    yield bytes(padded - length)


def _packed(frames: Iterator[Any]) -> Iterator[bytes]:
    """Pixels of one bit, eight in a byte across the frames, the first one lowest (PS3.5 8.1.1, D)."""
    rest = np.empty(0, bool)
    for frame in frames:
        bits = np.concatenate((rest, frame.ravel() != 0))
        whole = len(bits) // 8 * 8
        rest = bits[whole:]
        yield np.packbits(bits[:whole], bitorder="little").tobytes()
    yield np.packbits(rest, bitorder="little").tobytes()


def _encoded(image: dict[str, Any], first: Any, frames: Iterator[Any], target: UID) -> Iterator[Buffer]:
    yield struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OB", UNDEFINED) + _ITEM + bytes(4)
    for frame in itertools.chain([first], frames):
        stream = encode(frame, target, image)
        yield _ITEM + struct.pack("<I", len(stream)) + stream
    yield _SEQUENCE_END + bytes(4)


def _frames(source: _Source, pixels: Element, image: dict[str, Any]) -> Iterator[Any]:
    """Each frame as an array [rows, columns(, samples)] in native byte order; `image` is told what was made of it."""
    samples = image["samples_per_pixel"]
    shape = (image["rows"], image["columns"], *((samples,) if samples > 1 else ()))
    dtype = np.dtype(f"{'i' if image['pixel_representation'] else 'u'}{max(1, image['bits_allocated'] // 8)}")
    size = int(np.prod(shape)) * dtype.itemsize
    codable = {1, 8, 16, 32} if pixels.undefined else {8, 16, 32}
    if not 0 < size <= _MOST_FRAME_BYTES or image["bits_allocated"] not in codable:
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
    stored = dict(image)
    source.file.seek(pixels.start)
    streams = generate_frames(
        source.file,
        number_of_frames=int(image["number_of_frames"]),
        extended_offsets=offsets if len(offsets) == 2 else None,
    )
    while True:
        try:
            stream = next(streams, None)
        except (ValueError, struct.error, EOFError) as error:
            raise NotTranscodable(f"the frames cannot be told apart: {error}") from error
        if stream is None:
            return
        frame, image["photometric_interpretation"] = decode(stream, source.transfer_syntax, stored)
        image["planar_configuration"] = 0
        yield frame.astype(dtype, copy=False)


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
