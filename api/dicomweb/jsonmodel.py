"""The DICOM JSON model on its way in (PS3.18 F): checked attribute by attribute before anything is made of it.

Errors name the place and what is wrong there, never the value: it may be a patient's.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

import orjson
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR
from pydicom.valuerep import validate_value

from storage.errors import InvalidDataSet

__all__ = ["BULK_VRS", "Model", "check", "objects"]

Model = dict[str, Any]
BULK_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})

_TAG = re.compile(r"[0-9A-F]{8}")
_MEMBERS = {"vr", "Value", "InlineBinary", "BulkDataURI"}
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_TEXTS = frozenset({"AE", "AS", "CS", "DA", "DT", "LO", "LT", "SH", "ST", "TM", "UC", "UI", "UR", "UT"})
_RANGES = {
    "SS": (-(2**15), 2**15),
    "SL": (-(2**31), 2**31),
    "SV": (-(2**63), 2**63),
    "US": (0, 2**16),
    "UL": (0, 2**32),
    "UV": (0, 2**64),
}
_NUMBER = re.compile(r"\s*[+-]?[0-9.]+([eE][+-]?[0-9]+)?\s*")
_VRS = _TEXTS | BULK_VRS | _RANGES.keys() | {"AT", "DS", "FD", "FL", "IS", "PN", "SQ"}
_MAX_DEPTH = 16
_MAX_URI_CHARACTERS = 1024


def objects(data: bytes) -> list[Any]:
    """The data sets of a body: an array of objects, or one object alone. Raises `InvalidDataSet` for other JSON."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidDataSet(f"This is no JSON: {error.msg} at character {error.pos}") from None
    if isinstance(found, dict):
        return [found]
    if not isinstance(found, list):
        raise InvalidDataSet("The DICOM JSON model is an array of objects (PS3.18 F.2.1)")
    return found


def check(model: object, *, bulk: bool = False, place: str = "", depth: int = 0) -> None:
    """Raise `InvalidDataSet` unless `model` is a data set as PS3.18 F.2 says; `bulk` allows bulk data by address."""
    if not isinstance(model, dict):
        raise InvalidDataSet(f"{place.rstrip('.') or 'A data set'}: an object is needed")
    if depth > _MAX_DEPTH:
        raise InvalidDataSet(f"{place.rstrip('.')}: sequences lie too deep in each other")
    for tag, attribute in model.items():
        where = f"{place}{tag[:8]}"
        if not _TAG.fullmatch(tag):
            raise InvalidDataSet(f"{where}: a tag has eight hexadecimal digits, in capitals")
        if tag.startswith("0000"):
            raise InvalidDataSet(f"{where}: command elements are no part of a data set")
        if not isinstance(attribute, dict) or not attribute.keys() <= _MEMBERS:
            raise InvalidDataSet(f"{where}: an attribute has vr, and one of Value, InlineBinary and BulkDataURI")
        _check_attribute(tag, attribute, where, bulk, depth)


def _check_attribute(tag: str, attribute: Mapping[str, Any], where: str, bulk: bool, depth: int) -> None:
    vr = attribute.get("vr")
    if not isinstance(vr, str) or vr not in _VRS:
        raise InvalidDataSet(f"{where}: there is no such VR")
    allowed = _allowed(int(tag, 16))
    if allowed and vr not in allowed and vr != "UN":
        raise InvalidDataSet(f"{where}: its VR is {' or '.join(sorted(allowed))}, not {vr}")
    values, inline, uri = (attribute.get(name) for name in ("Value", "InlineBinary", "BulkDataURI"))
    if len(attribute) > 2:
        raise InvalidDataSet(f"{where}: more than one of Value, InlineBinary and BulkDataURI")
    if inline is not None:
        _check_inline(inline, vr, where)
    elif uri is not None:
        if not bulk or not isinstance(uri, str) or len(uri) > _MAX_URI_CHARACTERS or vr == "SQ":
            raise InvalidDataSet(f"{where}: a BulkDataURI is not possible here")
    elif values is not None:
        if not isinstance(values, list) or vr in BULK_VRS:
            raise InvalidDataSet(f"{where}: Value is an array, and not for {vr}")
        for number, value in enumerate(values):
            _check_value(vr, value, f"{where}[{number}]", bulk, depth)


def _allowed(tag: int) -> set[str]:
    """The VRs of the data dictionary; none for private and unknown tags."""
    try:
        return set(dictionary_VR(tag).split(" or "))
    except KeyError:
        return set()


def _check_inline(inline: object, vr: str, where: str) -> None:
    try:
        if not isinstance(inline, str) or vr not in BULK_VRS:
            raise InvalidDataSet(f"{where}: InlineBinary is text in base64, and not for {vr}")
        base64.b64decode(inline, validate=True)
    except ValueError:
        raise InvalidDataSet(f"{where}: InlineBinary is not base64") from None


def _check_value(vr: str, value: Any, where: str, bulk: bool, depth: int) -> None:
    if vr == "SQ":
        check(value, bulk=bulk, place=f"{where}.", depth=depth + 1)
    elif value is not None:
        text = _text(vr, value)
        if text is None:
            raise InvalidDataSet(f"{where}: no value of VR {vr}")
        try:
            validate_value(vr, text, RAISE)
        except ValueError:
            raise InvalidDataSet(f"{where}: no value of VR {vr} (PS3.5 6.2)") from None


def _text(vr: str, value: Any) -> Any:
    """The value as pydicom's validator takes it, None where its JSON type is wrong (PS3.18 table F.2.3-1)."""
    if isinstance(value, bool):
        return None
    if vr in _TEXTS:
        return value if isinstance(value, str) and "\0" not in value else None
    if vr in ("AT", "PN"):
        return _tag_number(value) if vr == "AT" else _name(value)
    return _whole(value, *_RANGES[vr]) if vr in _RANGES else _decimal(vr, value)


def _name(value: object) -> str | None:
    if not isinstance(value, dict) or not value.keys() <= set(_GROUPS):
        return None
    groups = [value.get(group, "") for group in _GROUPS]
    return "=".join(groups).rstrip("=") if all(isinstance(group, str) for group in groups) else None


def _decimal(vr: str, value: object) -> Any:
    number = value if isinstance(value, int | float) else _parsed(value)
    if number is None or (vr == "IS" and int(number) != number):
        return None
    if vr in ("FD", "FL"):
        return float(number)
    return value.strip() if isinstance(value, str) else str(value)[:16]  # a number is written as short as it must be


def _tag_number(value: object) -> Any:
    return int(value, 16) if isinstance(value, str) and _TAG.fullmatch(value.upper()) else None


def _whole(value: object, low: int, high: int) -> int | None:
    if isinstance(value, str) and re.fullmatch("-?[0-9]{1,20}", value):
        value = int(value)
    return value if isinstance(value, int) and low <= value < high else None


def _parsed(value: object) -> float | None:
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        return None
    try:
        return float(value)
    except ValueError:
        return None
