"""The DICOM JSON model of a stored data set, straight from its bytes (PS3.18 F.2).

Much faster than building a pydicom data set first: metadata of a series is made of hundreds of them. What cannot be
read stays out, so that one damaged value does not hide a study.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from pydicom.datadict import dictionary_VR

from pacs.charset import NAME_DELIMITERS, TEXT_DELIMITERS, codecs_of, decode
from pacs.elements import PIXEL_TAGS, DataSet, Element, read_header
from storage.errors import InvalidDataSet
from storage.objects import ObjectStore
from storage.retrieval import StoredInstance

__all__ = ["INLINE_BYTES", "corrected", "json_of", "little_endian"]

INLINE_BYTES = 1024
"""A binary value that is longer is given by its address (PS3.18 F.2.6)."""

_ONE_TEXT = frozenset({"LT", "ST", "UR", "UT"})
_TEXTS = frozenset({"LO", "SH", "UC"})
_NUMBERS = {"FD": "d", "FL": "f", "SL": "i", "SS": "h", "SV": "q", "UL": "I", "US": "H", "UV": "Q"}
_CHARACTER_SET, _PIXEL_REPRESENTATION, _STORED_SYNTAX = 0x00080005, 0x00280103, "00083002"

Json = dict[str, Any]
Address = Callable[[str], str]


def json_of(store: ObjectStore, instance: StoredInstance, address: Address) -> Json:
    """All attributes of one instance but those of file meta, corrected, with Available Transfer Syntax UID.

    Args:
        store: where its bytes are.
        instance: which one.
        address: from the place of a value ('7FE00010', or '00282000' below items: '00540016/0/00181078') to its URI.
    """
    data_set, elements = read_header(store, instance)
    found = _object(data_set, elements, ("",), "", address)
    return corrected(found, instance)


def corrected(found: Json, instance: StoredInstance) -> Json:
    """The attributes with corrections, and those that the index vouches for, by tag."""
    found |= instance.corrections
    sure = {"00080016": instance.sop_class, "00080018": instance.sop_uid}
    sure |= {"0020000D": instance.study_uid, "0020000E": instance.series_uid, _STORED_SYNTAX: instance.transfer_syntax}
    found |= {tag: {"vr": "UI", "Value": [uid]} for tag, uid in sure.items()}
    if "00080005" in found:
        found["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}  # JSON is UTF-8 (PS3.18 F.2.1)
    return dict(sorted(found.items()))


def _object(data_set: DataSet, elements: list[Element], codecs: tuple[str, ...], above: str, address: Address) -> Json:
    found: Json = {}
    signed = False
    for element in elements:
        if element.tag == _CHARACTER_SET:
            codecs = codecs_of(data_set.value(element))
        elif element.tag == _PIXEL_REPRESENTATION:
            signed = data_set.value(element)[:2].strip(b"\0") != b""
        tag = f"{element.tag:08X}"
        vr = element.vr
        if vr == "US" and signed and _is_ambiguous(element.tag) and (data_set.implicit or data_set.is_unknown(element)):
            vr = "SS"
        try:
            found[tag] = {"vr": vr, **_content(data_set, element, vr, _Reading(codecs, above + tag, address))}
        except (InvalidDataSet, ValueError, struct.error):
            found[tag] = {"vr": vr}
    return found


class _Reading(NamedTuple):
    codecs: tuple[str, ...]  # of text
    place: str  # of the element below its instance
    address: Address


def _content(data_set: DataSet, element: Element, vr: str, reading: _Reading) -> Json:
    """Value, InlineBinary, BulkDataURI or nothing (PS3.18 F.2.2)."""
    size = element.end - element.start
    if vr == "SQ":
        values: list[Any] = _items(data_set, element, reading)
    elif element.tag in PIXEL_TAGS and data_set.depth == 0 and size:
        return {"BulkDataURI": reading.address(reading.place)}
    elif element.undefined or size == 0:  # undefined: the encapsulated pixels of an icon
        return {}
    elif vr in _READERS:
        values = _READERS[vr](data_set, data_set.value(element), vr, reading.codecs)
    elif size > INLINE_BYTES:
        return {"BulkDataURI": reading.address(reading.place)}
    else:
        value = data_set.value(element)
        if data_set.big_endian:
            value = little_endian(value, vr)
        return {"InlineBinary": base64.b64encode(value).decode()}
    return {} if values in ([], [None]) else {"Value": values}


def _items(data_set: DataSet, element: Element, reading: _Reading) -> list[Any]:
    found = []
    for number, item in enumerate(data_set.items(element)):
        elements = [one for one in item.elements() if one.tag & 0xFFFF]
        found.append(_object(item, elements, reading.codecs, f"{reading.place}/{number}/", reading.address))
    return found


def little_endian(value: bytes, vr: str) -> bytes:
    """A binary value of a big endian data set in little endian order (PS3.18 F.2.7)."""
    width = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}.get(vr, 1)
    if width == 1 or len(value) % width:
        return value
    return np.frombuffer(value, f">u{width}").astype(f"<u{width}").tobytes()


def _is_ambiguous(tag: int) -> bool:
    try:
        return "US or SS" in dictionary_VR(tag)
    except KeyError:
        return False


def _numbers(data_set: DataSet, value: bytes, vr: str, _: tuple[str, ...]) -> list[Any]:
    code = _NUMBERS[vr]
    count = len(value) // struct.calcsize(f"={code}")
    numbers = struct.unpack_from(f"{'>' if data_set.big_endian else '<'}{count}{code}", value)
    return [number if math.isfinite(number) else str(number) for number in numbers]


def _tags(data_set: DataSet, value: bytes, _: str, __: tuple[str, ...]) -> list[Any]:
    words = struct.unpack_from(f"{'>' if data_set.big_endian else '<'}{len(value) // 4 * 2}H", value)
    return [f"{group:04X}{number:04X}" for group, number in zip(words[::2], words[1::2], strict=True)]


def _plain(_: DataSet, value: bytes, __: str, ___: tuple[str, ...]) -> list[Any]:
    """Values of the default character repertoire: codes, dates, UIDs."""
    return [part.strip() or None for part in value.decode("latin-1").rstrip("\0 ").split("\\")]


def _texts(_: DataSet, value: bytes, __: str, codecs: tuple[str, ...]) -> list[Any]:
    return [part.strip(" \0") or None for part in decode(value, codecs, TEXT_DELIMITERS).split("\\")]


def _one_text(_: DataSet, value: bytes, __: str, codecs: tuple[str, ...]) -> list[Any]:
    return [decode(value, codecs, TEXT_DELIMITERS).rstrip(" \0") or None]


def _names(_: DataSet, value: bytes, __: str, codecs: tuple[str, ...]) -> list[Any]:
    """Person names by component group (PS3.18 F.2.2 table F.2.3-1)."""
    names: list[Any] = []
    for name in decode(value, codecs, NAME_DELIMITERS).rstrip(" \0").split("\\"):
        groups = zip(("Alphabetic", "Ideographic", "Phonetic"), name.split("="), strict=False)
        names.append({kind: text.strip() for kind, text in groups if text.strip()} or None)
    return names


def _decimals(_: DataSet, value: bytes, vr: str, __: tuple[str, ...]) -> list[Any]:
    """DS and IS as numbers; as they stand where they are none (PS3.18 F.2.3 allows strings)."""
    values: list[Any] = []
    for part in value.decode("latin-1").split("\\"):
        text = part.strip(" \0")
        try:
            number = int(text) if vr == "IS" else float(text)
            values.append(number if math.isfinite(number) else text)
        except ValueError:
            values.append(text or None)
    return values


_READERS: Mapping[str, Callable[[DataSet, bytes, str, tuple[str, ...]], list[Any]]] = {
    **dict.fromkeys(("AE", "AS", "CS", "DA", "DT", "TM", "UI"), _plain),
    **dict.fromkeys(_TEXTS, _texts),
    **dict.fromkeys(_ONE_TEXT, _one_text),
    **dict.fromkeys(_NUMBERS, _numbers),
    **dict.fromkeys(("DS", "IS"), _decimals),
    "AT": _tags,
    "PN": _names,
}
