"""Where the frames of a stored image lie in its object: native ones by counting, compressed ones by their fragments.

Only what leads there is read, never the pixel data as a whole (PS3.5 8.2, A.4).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO, NamedTuple

import numpy as np
from pydicom import Dataset
from pydicom.filereader import read_dataset

from pacs.elements import PIXEL_TAGS, DataSet, Element, inflated, read_header
from pacs.scan import DEFLATED, EXPLICIT_BIG_ENDIAN
from storage.errors import InvalidDataSet
from storage.objects import ObjectStore
from storage.retrieval import StoredInstance

__all__ = ["Image", "Range", "open_image"]

_MAX_ITEMS = 200_000  # fragments of one object
_MAX_FRAME_BYTES = 1 << 30
_ITEM, _SEQUENCE_END = 0xE000FFFE, 0xE0DDFFFE  # as little endian words
_OFFSETS, _LENGTHS = 0x7FE00001, 0x7FE00002  # extended offset table (PS3.3 C.7.6.3.1.8)
_CUT = "the pixel data cannot be decoded: it is cut off"
_END_OF_IMAGE = b"\xff\xd9"  # JPEG, JPEG-LS and JPEG 2000


class Range(NamedTuple):
    """Bytes of an object."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Image:
    """A stored image: its attributes, and where its pixels are.

    Attributes:
        header: attributes without pixel data, corrected.
        frames: how many there are.
        tag: (7FE0,0010), or (7FE0,0008) and (7FE0,0009) for floating point numbers.
        vr: of pixel data.
        encapsulated: the frames are compressed, in fragments.
    """

    store: ObjectStore
    instance: StoredInstance
    header: Dataset
    frames: int
    tag: int
    vr: str
    encapsulated: bool
    _pixels: Element
    _inflated: bytes | None
    _tables: tuple[tuple[int, ...], tuple[int, ...]]
    _walked: list[Range] = field(default_factory=list)  # all fragments, once they had to be looked through

    @property
    def frame_bits(self) -> int:
        """Bits of one native frame (PS3.5 8.1.1); half chroma in YBR_FULL_422 (PS3.3 C.7.6.3.1.2)."""
        header = self.header
        samples = int(header.get("SamplesPerPixel") or 1)
        bits = int(header.Rows) * int(header.Columns) * samples * int(header.BitsAllocated)
        return bits * 2 // 3 if header.PhotometricInterpretation == "YBR_FULL_422" else bits

    @property
    def _bytes_in_words(self) -> bool:
        """Whether bytes of pixels stand in big endian words, each pair in the other order (PS3.5 A.3)."""
        big = self.instance.transfer_syntax == EXPLICIT_BIG_ENDIAN
        return big and self.vr == "OW" and int(self.header.BitsAllocated) == 8

    def ranges(self, index: int) -> list[Range] | None:
        """Where frame `index` (from 0) lies in the object; None if it must be made: inflated, or not on whole bytes.

        Raises:
            InvalidDataSet: the pixel data is cut off, or its fragments do not tell where the frame is.
        """
        if self.encapsulated:
            with closing(self.store.open(self.instance.object_key)) as file:
                found = self._fragments(file, index)
            if sum(one.size for one in found) > _MAX_FRAME_BYTES:
                raise InvalidDataSet("a frame is larger than any image")
            return found
        if self._inflated is not None or self.frame_bits % 8 or self._bytes_in_words:
            return None
        size = self.frame_bits // 8
        start = self._pixels.start + index * size
        if start + size > min(self._pixels.end, self.instance.object_size):
            raise InvalidDataSet(_CUT)
        return [Range(start, size)]

    def frame(self, index: int) -> bytes:
        """The bytes of frame `index` (from 0) as stored; packed bits begin on a whole byte. Errors as `ranges`."""
        ranges = self.ranges(index)
        if ranges is None:
            return self._cut_out(index)
        read = self.store.read
        parts = [read(self.instance.object_key, offset, size) for offset, size in ranges]
        if sum(map(len, parts)) != sum(size for _, size in ranges):
            raise InvalidDataSet(_CUT)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _fragments(self, file: BinaryIO, index: int) -> list[Range]:
        """The fragments of one frame; the first item of pixel data is the basic offset table (PS3.5 A.4)."""
        frames, head = self.frames, _item(file, self._pixels.start)
        if head is None:
            raise InvalidDataSet("the compressed pixel data is not in fragments (PS3.5 A.4)")
        first = head.offset + head.size
        offsets, lengths = self._tables
        if len(offsets) == len(lengths) == frames:
            return [Range(first + offsets[index] + 8, lengths[index])]
        if 1 < frames == head.size // 4:
            basic = struct.unpack(f"<{frames}I", file.read(4 * frames))
            if _rises(basic):
                end = first + basic[index + 1] if index + 1 < frames else None
                return list(_walk(file, first + basic[index], end))
        found = self._walked
        if not found:
            found.extend(_walk(file, first, None))
        if frames == 1 and found:
            return found
        return [found[index]] if len(found) == frames else _between_ends(file, found, index, frames)

    def _cut_out(self, index: int) -> bytes:
        first, end = index * self.frame_bits, (index + 1) * self.frame_bits
        start, size = self._pixels.start + first // 8, (end + 7) // 8 - first // 8
        if self._bytes_in_words:
            words = self.store.read(self.instance.object_key, start - first // 8 % 2, (size + 3) // 2 * 2)
            swapped = np.frombuffer(words[: len(words) // 2 * 2], ">u2").astype("<u2").tobytes()
            return swapped[first // 8 % 2 :][:size]
        if self._inflated is not None:
            data = self._inflated[start : start + size]
        else:
            data = self.store.read(self.instance.object_key, start, size)
        if len(data) != size or start + size > self._pixels.end:
            raise InvalidDataSet(_CUT)
        if first % 8 == 0:
            return data
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[first % 8 :]
        return np.packbits(bits[: self.frame_bits], bitorder="little").tobytes()


def open_image(store: ObjectStore, instance: StoredInstance) -> Image:
    """The image in a stored object.

    Raises:
        InvalidDataSet: there is none, or its attributes make no sense.
        ObjectStoreUnavailable, NotFound: of the store.
    """
    data_set, elements = read_header(store, instance)
    pixels = elements[-1] if elements and elements[-1].tag in PIXEL_TAGS else None
    if pixels is None:
        raise InvalidDataSet("the instance has no image")
    header = _attributes(data_set, elements, instance)
    try:
        rows, columns, frames = int(header.Rows), int(header.Columns), _frames(header)
        complete = int(header.BitsAllocated) > 0 and bool(header.PhotometricInterpretation)
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidDataSet("the instance has no image") from error
    if not complete:
        raise InvalidDataSet("the instance has no image that says how it is to be shown")
    if rows <= 0 or columns <= 0 or frames <= 0:
        raise InvalidDataSet(f"the image has no pixels: {columns} x {rows} in {frames} frames")
    return Image(
        store,
        instance,
        header,
        frames,
        pixels.tag,
        pixels.vr,
        pixels.end == -1,
        pixels,
        inflated(store, instance) if instance.transfer_syntax in DEFLATED else None,
        (_table(data_set, elements, _OFFSETS), _table(data_set, elements, _LENGTHS)),
    )


def _frames(header: Dataset) -> int:
    """Number of Frames (0028,0008); 1 where it is missing or no number."""
    try:
        return int(header.get("NumberOfFrames") or 1)
    except (TypeError, ValueError):
        return 1


def _attributes(data_set: DataSet, elements: list[Element], instance: StoredInstance) -> Dataset:
    """The data set up to its pixels, as pydicom understands it, with corrections."""
    end = max((one.end + 8 * one.undefined for one in elements[:-1]), default=data_set.start)
    head = BytesIO(data_set.data[data_set.start : end])
    try:
        header = read_dataset(head, data_set.implicit, not data_set.big_endian)
        if instance.corrections:
            header.update(Dataset.from_json(instance.corrections))
    except Exception as error:  # whatever damaged data makes pydicom meet
        raise InvalidDataSet("the attributes of the image cannot be read") from error
    return header


def _table(data_set: DataSet, elements: list[Element], tag: int) -> tuple[int, ...]:
    found = next((one for one in elements if one.tag == tag), None)
    if found is None:
        return ()
    value = data_set.value(found)
    return struct.unpack_from(f"<{len(value) // 8}Q", value)


def _rises(offsets: tuple[int, ...]) -> bool:
    return offsets[0] == 0 and all(a < b for a, b in itertools.pairwise(offsets))


def _between_ends(file: BinaryIO, found: list[Range], index: int, frames: int) -> list[Range]:
    """Fragments grouped to frames by those that end an image: no table, and not one fragment for each frame."""
    groups: list[list[Range]] = [[]]
    for one in found:
        groups[-1].append(one)
        file.seek(one.offset + max(0, one.size - 8))
        if _END_OF_IMAGE in file.read(min(8, one.size)):
            groups.append([])
    groups = [group for group in groups if group]
    if len(groups) != frames:
        raise InvalidDataSet(f"the {len(found)} fragments do not tell where the {frames} frames begin")
    return groups[index]


def _walk(file: BinaryIO, at: int, end: int | None) -> Iterator[Range]:
    """The fragments from the item at `at` to `end`, or to the sequence delimiter (or the end of a file cut off)."""
    for _ in range(_MAX_ITEMS):
        found = _item(file, at) if end is None or at < end else None
        if found is None:
            return
        yield found
        at = found.offset + found.size
    raise InvalidDataSet("there are too many fragments")


def _item(file: BinaryIO, at: int) -> Range | None:
    file.seek(at)
    head = file.read(8)
    if len(head) < 8:
        return None
    tag, size = struct.unpack("<II", head)
    return Range(at + 8, size) if tag == _ITEM else None
