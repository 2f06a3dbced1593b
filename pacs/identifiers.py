"""Small data sets of messages: read strictly, written fast, as plain dictionaries (PS3.5 7).

Identifiers of queries and their answers are some twenty short elements, read and written a hundred at a time.
`Elements` is what they are everywhere here; pydicom's data sets, which are made for files, cost ten times as much.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

from pydicom.datadict import dictionary_VR

from pacs.charset import NAME_DELIMITERS, TEXT_DELIMITERS, codecs_of, decode
from storage.errors import InvalidInput

__all__ = ["CHARACTER_SET", "UTF8", "Element", "Elements", "read", "require_kinds", "text_of", "vr_of", "write"]


class Element(NamedTuple):
    """VR and values: text (trimmed, split at backslashes), numbers, items (`Elements`), or bytes of other VRs."""

    vr: str
    values: Sequence[Any] = ()


Elements: TypeAlias = Mapping[int, Element]  # by tag, 0xGGGGEEEE

CHARACTER_SET: Final = 0x00080005
UTF8: Final = "ISO_IR 192"

_IMPLICIT, _BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_MAX_DEPTH = 8  # sequences within sequences; the deepest key of a worklist stands at 4
_MAX_ELEMENTS = 4_000  # of one data set, items included

_LOCAL = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})  # encoded by Specific Character Set
_WHOLE = frozenset({"LT", "ST", "UT", "UR"})  # never split: a backslash is text
_TEXT = _LOCAL | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"}
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}
_LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_KNOWN = _TEXT | _LONG | _NUMBERS.keys() | {"AT"}


def text_of(elements: Elements, tag: int) -> str:
    """The first value as text, '' where there is none."""
    values = elements[tag].values if tag in elements else ()
    return str(values[0]) if values else ""


@lru_cache(maxsize=4096)
def vr_of(tag: int) -> str:
    """The VR of the data dictionary (PS3.6); the first where it names several, UN where it names none."""
    try:
        return dictionary_VR(tag)[:2]
    except KeyError:
        return "UN"


def require_kinds(elements: Elements) -> None:
    """Whoever goes on may rely on attributes of the data dictionary having text, numbers, items or bytes as there.

    Raises `InvalidInput` where one comes with a VR of another kind.
    """
    for tag, element in elements.items():
        known = vr_of(tag)
        if known != "UN" and _kind(element.vr) != _kind(known):
            raise InvalidInput(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) has VR {element.vr}, and not {known}.")
        if element.vr == "SQ":
            for item in element.values:
                require_kinds(item)


def _kind(vr: str) -> str:
    if vr in _TEXT:
        return "text"
    return "number" if vr in _NUMBERS else vr if vr in ("AT", "SQ") else "bytes"


# ---- reading


def read(data: bytes, transfer_syntax: str, codecs: tuple[str, ...] = ("",)) -> dict[int, Element]:
    """The elements of an uncompressed data set; group lengths and what has no known VR are left out.

    `codecs`: of the text, while the data set does not name its character set.
    Raises `InvalidInput` where bytes are missing or left over, tags repeat, or there is more than a message needs.
    """
    try:
        return _Reader(data, transfer_syntax).elements(0, len(data), 0, codecs)[0]
    except struct.error:
        raise InvalidInput("The data set ends within an element.") from None


class _Reader:
    def __init__(self, data: bytes, transfer_syntax: str) -> None:
        self._data = data
        self._implicit = transfer_syntax == _IMPLICIT
        self._order = ">" if transfer_syntax == _BIG_ENDIAN else "<"
        self._implicit_head = struct.Struct(self._order + "HHI")
        self._explicit_head = struct.Struct(self._order + "HH2sH")
        self._length = struct.Struct(self._order + "I")
        self._count = 0

    def elements(
        self, at: int, end: int, depth: int, codecs: tuple[str, ...] = ("",)
    ) -> tuple[dict[int, Element], int]:
        """The elements from `at` to `end` or an item delimiter, and the position behind them."""
        found: dict[int, Element] = {}
        last = -1
        while at < end:
            tag, vr, length, at = self._header(at)
            if tag == _ITEM_END and depth:
                break
            if tag >> 16 == _ITEM >> 16:
                raise InvalidInput(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is no data element.")
            self._count += 1
            if tag <= last or self._count > _MAX_ELEMENTS:
                raise InvalidInput(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is out of order, or one element too many.")
            last = tag
            if vr == "SQ" or length == _UNDEFINED:
                items, at = self._items(at, end if length == _UNDEFINED else at + length, depth, codecs)
                element = Element("SQ", items)
            else:
                raw = self._data[at : at + length]
                element = Element(vr, self._values(vr, raw, codecs))
                at += length
                if tag == CHARACTER_SET:
                    codecs = codecs_of(raw)
            if at > end:
                raise InvalidInput(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is longer than what holds it.")
            if tag & 0xFFFF and element.vr != "UN":
                found[tag] = element
        return found, at

    def _header(self, at: int) -> tuple[int, str, int, int]:
        """Tag, VR, length and where the value starts."""
        group, number, length = self._implicit_head.unpack_from(self._data, at)
        tag = group << 16 | number
        if self._implicit or group == 0xFFFE:
            return tag, vr_of(tag), length, at + 8
        _, _, code, length = self._explicit_head.unpack_from(self._data, at)
        vr = code.decode("latin-1")
        if vr not in _KNOWN:
            raise InvalidInput(f"({group:04X},{number:04X}) has no VR that is known.")
        if vr not in _LONG:
            return tag, vr, length, at + 8
        return tag, vr if vr != "UN" else vr_of(tag), self._length.unpack_from(self._data, at + 8)[0], at + 12

    def _items(self, at: int, end: int, depth: int, codecs: tuple[str, ...]) -> tuple[list[dict[int, Element]], int]:
        if depth == _MAX_DEPTH:
            raise InvalidInput("Sequences are nested too deeply.")
        items = []
        while at < end:
            group, number, length = self._implicit_head.unpack_from(self._data, at)
            at += self._implicit_head.size
            tag = group << 16 | number
            if tag == _SEQUENCE_END:
                break
            if tag != _ITEM:
                raise InvalidInput("There is something else than items in a sequence.")
            item, at = self.elements(at, end if length == _UNDEFINED else at + length, depth + 1, codecs)
            items.append(item)
        return items, at

    def _values(self, vr: str, raw: bytes, codecs: tuple[str, ...]) -> Sequence[Any]:
        if vr in _TEXT:
            text = decode(raw, codecs, NAME_DELIMITERS if vr == "PN" else TEXT_DELIMITERS).strip(" \0")
            if vr in _WHOLE or "\\" not in text:
                return (text,) if text else ()
            return tuple(one.strip(" \0") for one in text.split("\\"))
        if vr == "AT":
            return tuple(group << 16 | number for group, number in struct.iter_unpack(self._order + "HH", raw))
        if vr in _NUMBERS:
            return tuple(value for (value,) in struct.iter_unpack(self._order + _NUMBERS[vr], raw))
        return (raw,) if raw else ()


# ---- writing


def write(elements: Elements, transfer_syntax: str, character_set: str = "") -> bytes:
    """The data set in the character set asked for, or in UTF-8 where some text cannot be written in that.

    `character_set` is the value of (0008,0005), '' for none; only its first term is used. The attribute is added where
    one was asked for, and where UTF-8 is used. Text of VRs that have only ASCII loses what is not.
    """
    try:
        return _Writer(transfer_syntax, _codec(character_set)).data_set(elements, character_set)
    except UnicodeEncodeError:
        return _Writer(transfer_syntax, "utf-8").data_set(elements, UTF8)


@lru_cache(maxsize=256)
def _codec(character_set: str) -> str:
    """The Python codec of the first term, without escape sequences: ASCII where that needs them."""
    first = character_set.partition("\\")[0].strip()
    codec = codecs_of(first.encode("latin-1", "replace"))[0] or "ascii"
    return "ascii" if codec.startswith("iso2022") or first.endswith("IR 6") else codec


class _Writer:
    def __init__(self, transfer_syntax: str, codec: str) -> None:
        order = ">" if transfer_syntax == _BIG_ENDIAN else "<"
        self._order, self._codec = order, codec
        self._implicit = transfer_syntax == _IMPLICIT
        self._plain = struct.Struct(order + "HHI").pack
        self._short, self._long = struct.Struct(order + "HH2sH").pack, struct.Struct(order + "HH2sxxI").pack

    def data_set(self, elements: Elements, character_set: str) -> bytes:
        if character_set:
            elements = {**elements, CHARACTER_SET: Element("CS", character_set.split("\\"))}
        return self._all(elements)

    def _all(self, elements: Elements) -> bytes:
        return b"".join([self._element(tag, *elements[tag]) for tag in sorted(elements)])

    def _element(self, tag: int, vr: str, values: Sequence[Any]) -> bytes:
        raw = self._text(vr, values) if vr in _TEXT else self._binary(vr, values)
        group, number = tag >> 16, tag & 0xFFFF
        if self._implicit:
            return self._plain(group, number, len(raw)) + raw
        if vr in _LONG:
            return self._long(group, number, vr.encode(), len(raw)) + raw
        return self._short(group, number, vr.encode(), len(raw)) + raw

    def _text(self, vr: str, values: Sequence[Any]) -> bytes:
        if not values:
            return b""
        text = values[0] if len(values) == 1 and type(values[0]) is str else "\\".join(map(str, values))
        raw: bytes = text.encode(self._codec) if vr in _LOCAL else text.encode("ascii", "replace")
        if len(raw) & 1:
            raw += b"\0" if vr == "UI" else b" "
        return raw

    def _binary(self, vr: str, values: Sequence[Any]) -> bytes:
        if vr == "SQ":
            items = [self._all(item) for item in values]
            return b"".join([self._plain(_ITEM >> 16, _ITEM & 0xFFFF, len(item)) + item for item in items])
        if vr == "AT":
            return b"".join([struct.pack(self._order + "HH", value >> 16, value & 0xFFFF) for value in values])
        if vr in _NUMBERS:
            return struct.pack(f"{self._order}{len(values)}{_NUMBERS[vr]}", *values)
        raw = b"".join(values)
        return raw + b"\0" * (len(raw) & 1)
