"""The header of a stored data set in another encoding, element by element: nothing is interpreted that need not be.

Values are moved as bytes: byte order is swapped by VR, text is decoded only when the character set must change, and
sequences are rebuilt around their items. So a value that is wrong, private or unknown survives as it is.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_data_element

from pacs.charset import NAME_DELIMITERS, TEXT_DELIMITERS, codecs_of, decode
from pacs.elements import PIXEL_TAGS, DataSet, Element
from pacs.scan import EXPLICIT_BIG_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from storage.errors import NotTranscodable

__all__ = ["Encoding", "Replacement", "corrected", "element_bytes", "reencoded"]

_LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_TEXT = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})  # encoded by Specific Character Set (PS3.5 6.1.2.3)
_WORDS = {
    **dict.fromkeys(("AT", "OW", "SS", "US"), 2),
    **dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}
_CHARACTER_SET, _PIXEL_REPRESENTATION = 0x00080005, 0x00280103
_UTF8 = b"ISO_IR 192"
_ITEM, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_MOST_SHORT = 0xFFFF

Replacement = bytes | None
"""A whole element in the target encoding; None: the element is left out."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a data set is written (PS3.5 7.1, 7.3)."""

    implicit: bool
    big_endian: bool = False

    @classmethod
    def of(cls, transfer_syntax: str) -> Encoding:
        """That of a transfer syntax."""
        return cls(transfer_syntax == IMPLICIT_LITTLE_ENDIAN, transfer_syntax == EXPLICIT_BIG_ENDIAN)


@dataclass(slots=True)
class _Way:
    """From one encoding to another."""

    source: DataSet
    target: Encoding
    signed: bool  # Pixel Representation, which decides between US and SS
    to_utf8: bool
    codecs: tuple[str, ...] = ("",)
    replaced: Mapping[int, Replacement] = field(default_factory=dict)

    @property
    def verbatim(self) -> bool:
        """Whether elements can be taken over as they stand."""
        here = Encoding(self.source.implicit, self.source.big_endian)
        return here == self.target and not self.to_utf8


def reencoded(
    source: DataSet, target: Encoding, replaced: Mapping[int, Replacement] | None = None, *, to_utf8: bool = False
) -> tuple[bytes, Element | None]:
    """The elements before pixel data in the target encoding, and the element of pixel data (None where there is none).

    Args:
        source: the data set as stored.
        target: how it is to be written.
        replaced: whole elements by tag that are put in place of those that are there, or in between.
        to_utf8: text becomes UTF-8, and Specific Character Set says so.

    Raises:
        InvalidDataSet: the data set is broken.
    """
    signed, codecs = _facts(source)
    way = _Way(source, target, signed, to_utf8, codecs, {**(replaced or {})})
    if to_utf8:
        value = _UTF8
        way.replaced = {**way.replaced, _CHARACTER_SET: element_bytes(_CHARACTER_SET, "CS", value, target)}
    return _elements(way)


def corrected(source: DataSet, corrections: Mapping[str, Any], target: Encoding) -> tuple[dict[int, Replacement], bool]:
    """The elements of DICOM JSON corrections in the target encoding, and whether the text must become UTF-8 for them.

    An attribute without a value becomes empty. Raises `NotTranscodable` where they cannot be written.
    """
    try:
        given = Dataset.from_json(dict(corrections))
        given.pop(_CHARACTER_SET, None)
        terms, known = _character_set(source)
        if known and (written := _written(given, target, terms)) is not None:
            return written, False
        written = _written(given, target, [_UTF8.decode()])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, struct.error) as error:
        raise NotTranscodable(f"The corrections cannot be written: {error}") from error
    if written is None:
        raise NotTranscodable("The corrections cannot be written in UTF-8")
    return written, True


def element_bytes(tag: int, vr: str, value: bytes, target: Encoding) -> bytes:
    """One element; the value (in the target's byte order) is padded to an even length."""
    if len(value) % 2:
        value += b" " if vr in _TEXT or vr in {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UR"} else b"\0"
    order = ">" if target.big_endian else "<"
    group, number = tag >> 16, tag & 0xFFFF
    if target.implicit:
        return struct.pack(order + "HHI", group, number, len(value)) + value
    if vr not in _LONG and len(value) > _MOST_SHORT:
        vr = "UN"  # PS3.5 6.2.2 note 3
    if vr in _LONG:
        return struct.pack(order + "HH2sxxI", group, number, vr.encode(), len(value)) + value
    return struct.pack(order + "HH2sH", group, number, vr.encode(), len(value)) + value


def _facts(source: DataSet) -> tuple[bool, tuple[str, ...]]:
    signed, codecs = False, codecs_of(b"")
    for element in source.elements():
        if element.tag == _CHARACTER_SET:
            codecs = codecs_of(source.value(element))
        elif element.tag == _PIXEL_REPRESENTATION:
            signed = 1 in source.value(element)
    return signed, codecs


def _character_set(source: DataSet) -> tuple[list[str], bool]:
    """The terms of Specific Character Set, and whether one codec writes what it declares."""
    raw = next((source.value(e) for e in source.elements() if e.tag == _CHARACTER_SET), b"")
    terms = [term.strip(" \0") for term in raw.decode("latin-1").split("\\")]
    return terms, len(terms) == 1


def _written(given: Dataset, target: Encoding, terms: list[str]) -> dict[int, Replacement] | None:
    """Each element of `given` in this character set; None where it has no room for the text."""
    out: dict[int, Replacement] = {}
    codec = convert_encodings(terms)[0] if terms != [""] else "ascii"
    for element in given:
        if not _fits(element.value, element.VR, codec):
            return None
        buffer = BytesIO()
        file = DicomIO(buffer)
        file.is_implicit_VR, file.is_little_endian = target.implicit, not target.big_endian
        write_data_element(file, element, terms)
        out[int(element.tag)] = buffer.getvalue()
    return out


def _fits(value: Any, vr: str, codec: str) -> bool:
    if vr == "SQ":
        return all(_fits(inner.value, inner.VR, codec) for item in value for inner in item)
    if vr not in _TEXT:
        return True
    try:
        ("\\".join(map(str, value)) if isinstance(value, list) else str(value)).encode(codec)
    except UnicodeError:
        return False
    return True


def _elements(way: _Way) -> tuple[bytes, Element | None]:
    out = bytearray()
    pending = sorted(way.replaced.items(), reverse=True)  # the next one at the end
    pixels, at = None, way.source.start
    for element in way.source.elements():
        if element.tag in PIXEL_TAGS and way.source.depth == 0:
            pixels = element
            break
        while pending and pending[-1][0] < element.tag:
            out += pending.pop()[1] or b""
        behind = element.end + 8 * element.undefined
        if element.tag & 0xFFFF and element.tag not in way.replaced:  # group lengths are retired (PS3.5 7.2)
            out += way.source.data[at:behind] if way.verbatim else _element(way, element)
        at = behind
    limit = min(PIXEL_TAGS) if pixels is not None else 1 << 32
    while pending and pending[-1][0] < limit:
        out += pending.pop()[1] or b""
    return bytes(out), pixels


def _element(way: _Way, element: Element) -> bytes:
    vr = _resolved(way, element)
    if vr == "SQ":
        return _sequence(way, element)
    value = way.source.value(element)
    if way.source.big_endian != way.target.big_endian:
        value = _swapped(value, _WORDS.get(vr, 1))
    if way.to_utf8 and vr in _TEXT:
        value = decode(value, way.codecs, NAME_DELIMITERS if vr == "PN" else TEXT_DELIMITERS).encode()
    return element_bytes(element.tag, vr, value, way.target)


def _resolved(way: _Way, element: Element) -> str:
    """The VR, where a data set without VRs leaves open whether numbers are signed (PS3.5 A.1)."""
    if element.vr == "US" and way.source.implicit and way.signed:
        try:
            return "SS" if "SS" in dictionary_VR(element.tag) else "US"
        except KeyError:
            return "US"
    return element.vr


def _sequence(way: _Way, element: Element) -> bytes:
    """A sequence with items of known length."""
    order = ">" if way.target.big_endian else "<"
    items = bytearray()
    for item in way.source.items(element):
        codecs = next((codecs_of(item.value(e)) for e in item.elements() if e.tag == _CHARACTER_SET), way.codecs)
        left_out: dict[int, Replacement] = {_CHARACTER_SET: None} if way.to_utf8 else {}
        body, _ = _elements(_Way(item, way.target, way.signed, way.to_utf8, codecs, left_out))
        items += struct.pack(order + "HHI", _ITEM >> 16, _ITEM & 0xFFFF, len(body)) + body
    head = (element.tag >> 16, element.tag & 0xFFFF)
    if way.target.implicit:
        return struct.pack(order + "HHI", *head, len(items)) + items
    return struct.pack(order + "HH2sxxI", *head, b"SQ", len(items)) + items


def _swapped(value: bytes, size: int) -> bytes:
    if size == 1:
        return value
    whole = len(value) // size * size
    return np.frombuffer(value[:whole], f">u{size}").astype(f"<u{size}").tobytes() + value[whole:]
