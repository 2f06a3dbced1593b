"""Where the elements of a stored data set lie: tag, VR and the place of each value, nothing decoded (PS3.5 7).

Only as much of an object is read as its header needs. Shapes that the standard forbids but that exist are understood:
implicit VR though the transfer syntax says explicit, and the reverse; single elements without VR; unknown VRs.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from pydicom.datadict import dictionary_VR

from pacs.scan import DEFLATED, EXPLICIT_BIG_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from storage.errors import InvalidDataSet
from storage.objects import ObjectStore
from storage.retrieval import StoredInstance

__all__ = ["PIXEL_TAGS", "UNDEFINED", "DataSet", "Element", "inflated", "read_header"]

PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
UNDEFINED = 0xFFFFFFFF

_SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_MAX_DEPTH = 40  # sequences in sequences; real ones have less than ten
_WINDOW_BYTES = 64 << 10  # holds most headers
_MAX_INFLATED_BYTES = 320 << 20


class Element(NamedTuple):
    """One element: `start` and `end` of its value in the data; `end` is -1 for encapsulated pixel data (PS3.5 A.4)."""

    tag: int
    vr: str
    start: int
    end: int
    undefined: bool  # its length


class DataSet(NamedTuple):
    """A data set (or an item of a sequence) and how it is encoded.

    `data` may end within pixel data.
    """

    data: bytes
    start: int
    end: int
    implicit: bool
    big_endian: bool
    depth: int = 0

    @classmethod
    def of(cls, data: bytes, start: int, transfer_syntax: str) -> DataSet:
        """The data set that begins at `start`; not for deflated ones, which have to be inflated first."""
        big = transfer_syntax == EXPLICIT_BIG_ENDIAN
        vr = data[start + 4 : start + 6]
        explicit = vr in _SHORT or vr in _LONG or (transfer_syntax != IMPLICIT_LITTLE_ENDIAN and not vr)
        return cls(data, start, len(data), not explicit, big)

    def elements(self) -> Iterator[Element]:
        """The elements in their order up to pixel data (included), those of nested items not among them.

        Raises:
            InvalidDataSet: an element is cut off, or sequences lie too deep in each other.
        """
        at, data = self.start, self.data
        head = struct.Struct(">HH" if self.big_endian else "<HH").unpack
        while at + 8 <= self.end:
            group, number = head(data[at : at + 4])
            tag = group << 16 | number
            if tag in (_ITEM_END, _SEQUENCE_END):
                return
            vr, length, start = self._vr_and_length(tag, at)
            if length == UNDEFINED:
                if tag in PIXEL_TAGS and self.depth == 0:
                    yield Element(tag, vr, start, -1, True)
                    return
                end, next_at = self._skip_items(start, nested_implicit=self.data[at + 4 : at + 6] == b"UN")
                yield Element(tag, vr if vr != "UN" else "SQ", start, end, True)
                at = next_at
                continue
            at = start + length
            if at > self.end and not (tag in PIXEL_TAGS and self.depth == 0):
                raise InvalidDataSet(f"element {tag:08X} is cut off")
            yield Element(tag, vr, start, at, False)
            if tag in PIXEL_TAGS and self.depth == 0:
                return

    def items(self, element: Element) -> Iterator[DataSet]:
        """The items of a sequence (PS3.5 7.5). An SQ of VR UN is implicit VR inside (PS3.5 6.2.2 note 2)."""
        at, order = element.start, "big" if self.big_endian else "little"
        implicit = self.implicit or self.is_unknown(element)
        while at + 8 <= element.end:
            tag, length = self._item_head(at, order)
            if tag != _ITEM:
                return
            inside = DataSet(self.data, at + 8, element.end, implicit, self.big_endian, self.depth + 1)
            if length == UNDEFINED:
                end = inside.walked()
                yield inside._replace(end=end)
                at = end + 8
            else:
                at += 8 + length
                if at > element.end:
                    raise InvalidDataSet(f"an item of {element.tag:08X} is cut off")
                yield inside._replace(end=at)

    def walked(self) -> int:
        """Where the item delimiter of an item of undefined length stands."""
        at = self.start
        for element in self.elements():
            at = self._behind(element)
        if at + 8 > self.end:
            raise InvalidDataSet("an item of a sequence is cut off")
        return at

    def value(self, element: Element) -> bytes:
        """The bytes of a value."""
        return self.data[element.start : element.end]

    def _behind(self, element: Element) -> int:
        return element.end + 8 if element.undefined else element.end

    def is_unknown(self, element: Element) -> bool:
        """Whether the element stands there as UN, so that its VR is from the data dictionary."""
        return not self.implicit and self.data[element.start - 8 : element.start - 6] == b"UN"

    def _vr_and_length(self, tag: int, at: int) -> tuple[str, int, int]:
        """VR, length and start of the value of the element whose tag stands at `at`."""
        data, order = self.data, "big" if self.big_endian else "little"
        raw = b"" if self.implicit else data[at + 4 : at + 6]
        if raw in _SHORT:
            return raw.decode(), int.from_bytes(data[at + 6 : at + 8], order), at + 8  # type: ignore[arg-type]
        if raw == b"UN":  # of a sender that did not know it; its value is implicit VR little endian all the same
            return _dictionary_vr(tag), int.from_bytes(data[at + 8 : at + 12], order), at + 12  # type: ignore[arg-type]
        if raw in _LONG or (raw.isalpha() and raw.isupper()):  # a VR of a later edition has the long form (PS3.5 7.1.2)
            return raw.decode(), int.from_bytes(data[at + 8 : at + 12], order), at + 12  # type: ignore[arg-type]
        return _dictionary_vr(tag), int.from_bytes(data[at + 4 : at + 8], order), at + 8  # type: ignore[arg-type]

    def _item_head(self, at: int, order: str) -> tuple[int, int]:
        group, number, length = struct.unpack(">HHI" if order == "big" else "<HHI", self.data[at : at + 8])
        return group << 16 | number, length

    def _skip_items(self, start: int, *, nested_implicit: bool) -> tuple[int, int]:
        """Where a value of undefined length ends: its sequence delimiter, and behind that."""
        if self.depth >= _MAX_DEPTH:
            raise InvalidDataSet("sequences lie too deep in each other")
        at, order = start, "big" if self.big_endian else "little"
        while at + 8 <= self.end:
            tag, length = self._item_head(at, order)
            if tag == _SEQUENCE_END:
                return at, at + 8
            if tag != _ITEM:
                break
            if length == UNDEFINED:
                implicit = self.implicit or nested_implicit
                at = DataSet(self.data, at + 8, self.end, implicit, self.big_endian, self.depth + 1).walked() + 8
            else:
                at += 8 + length
        raise InvalidDataSet("a sequence is cut off")


def read_header(store: ObjectStore, instance: StoredInstance) -> tuple[DataSet, list[Element]]:
    """The data set of a stored object up to pixel data, and its elements at the top level.

    Places are those in the object, except for a deflated one, whose data set is inflated. Damage ends the list.

    Raises:
        ObjectStoreUnavailable, NotFound: of the store.
        InvalidDataSet: a deflated data set cannot be inflated.
    """
    size, deflated = _WINDOW_BYTES, instance.transfer_syntax in DEFLATED
    while True:
        data = inflated(store, instance, size) if deflated else store.read(instance.object_key, 0, size)
        data_set = DataSet.of(data, 0 if deflated else instance.dataset_offset, instance.transfer_syntax)
        found, whole = _whole(data_set)
        if len(data) < size or (whole and found and found[-1].tag in PIXEL_TAGS):
            return data_set, found
        size *= 8


def inflated(store: ObjectStore, instance: StoredInstance, size: int | None = None) -> bytes:
    """The data set of a deflated object, or its first `size` bytes (PS3.5 A.5).

    Raises:
        InvalidDataSet: it cannot be inflated, or the whole is larger than any image.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    packed = None if size is None else size + size // 256 + 4096  # what does not shrink grows by less than that
    try:
        data = store.read(instance.object_key, instance.dataset_offset, packed)
        data = inflater.decompress(data, size or _MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise InvalidDataSet("the data set cannot be inflated") from error
    if size is None and inflater.unconsumed_tail:
        raise InvalidDataSet(f"the data set inflates to more than {_MAX_INFLATED_BYTES:,} bytes")
    return data


def _whole(data_set: DataSet) -> tuple[list[Element], bool]:
    """The elements, and whether nothing was wrong among them."""
    found: list[Element] = []
    try:
        found.extend(element for element in data_set.elements() if element.tag & 0xFFFF)  # without group lengths
    except InvalidDataSet:
        return found, False
    return found, True


def _dictionary_vr(tag: int) -> str:
    """The VR of the data dictionary (PS3.6), the first where it allows several; UN for what it does not know."""
    if tag & 0xFFFF == 0:
        return "UL"
    if tag >> 16 & 1:
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN"
    try:
        return _AMBIGUOUS.get(found := dictionary_VR(tag), found)
    except KeyError:
        return "UN"


_AMBIGUOUS = {"US or SS": "US", "OB or OW": "OW", "US or OW": "OW", "US or SS or OW": "OW"}
