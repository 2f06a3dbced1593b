"""HL7 data types as values of an order: names, times, codes, identifiers, priorities."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

from pacs.hl7.message import Failure, Segment

__all__ = ["code", "date", "entity", "moment", "name", "parts", "priority", "put", "sex"]

_STAMP = re.compile(r"(\d{4})(\d{2})?(\d{2})?(\d{2})?(\d{2})?(\d{2})?(\.\d+)?([+-]\d{4})?", re.ASCII)
_NULL = '""'
_PRIORITIES = {
    "S": "STAT", "STAT": "STAT", "E": "STAT", "EMERGENCY": "STAT",
    "A": "HIGH", "ASAP": "HIGH", "H": "HIGH", "HIGH": "HIGH", "U": "HIGH", "UR": "HIGH", "URGENT": "HIGH",
    "T": "HIGH", "TIMING CRITICAL": "HIGH", "P": "MEDIUM", "PREOP": "MEDIUM", "MEDIUM": "MEDIUM",
    "R": "ROUTINE", "ROUTINE": "ROUTINE", "N": "ROUTINE", "NORMAL": "ROUTINE", "C": "ROUTINE", "PRN": "ROUTINE",
    "L": "LOW", "LOW": "LOW",
}  # fmt: skip
_SEXES = {"M": "M", "F": "F", "O": "O", "A": "O", "N": "O"}  # HL7 table 0001 -> (0010,0040)
_GROUPS = {"": 0, "A": 0, "I": 1, "P": 2}  # XPN-8, HL7 table 0465 -> component group (PS3.5 6.2.1)


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set what is given: nothing for an absent value, None for one that is to be deleted."""
    if value == _NULL:
        values[key] = None
    elif value not in ("", None, {}, []):
        values[key] = value


def moment(text: str, location: str) -> dt.datetime | None:
    """A time stamp as the clock of the sender shows it; None where absent. Raises `Failure`."""
    if text in ("", _NULL):
        return None
    match = _STAMP.fullmatch(text)
    try:
        if match is None:
            raise ValueError(text)
        year, month, day, hour, minute, second = (
            int(part or at) for part, at in zip(match.groups(), "011000", strict=False)
        )
        return dt.datetime(year, month, day, hour, minute, min(second, 59))
    except ValueError:
        raise Failure("AE", 102, "A time is YYYYMMDDHHMMSS.", location) from None


def date(text: str, location: str) -> str:
    """A day as YYYY-MM-DD; '' where only a year or a month is known, which is no day. Raises `Failure`."""
    if text == _NULL:
        return text
    found = moment(text, location)
    return found.date().isoformat() if found is not None and len(text) >= 8 else ""


def name(segment: Segment, field: int) -> str:
    """XPN, all its representations, as alphabetic=ideographic=phonetic."""
    if segment.get(field) == _NULL:
        return _NULL
    groups = ["", "", ""]
    for repetition in segment.repetitions(field):
        given = [segment.get(field, component, repetition=repetition) for component in range(1, 9)]
        at = _GROUPS.get(given[7].upper())
        if at is not None and not groups[at]:
            groups[at] = _group(given[:6])
    return "=".join(groups).rstrip("=")


def physician(segment: Segment, field: int) -> str:
    """XCN, the first one, as a person name; the identifier where it has no name."""
    if segment.get(field) == _NULL:
        return _NULL
    given = [segment.get(field, component) for component in range(2, 8)]
    return _group(given) or _group([segment.get(field)])


def _group(given: list[str]) -> str:
    """Family, given, further, suffix, prefix, degree -> family^given^middle^prefix^suffix."""
    family, first, middle, suffix, prefix, degree = (_safe(part) for part in (given + [""] * 6)[:6])
    return "^".join((family, first, middle, prefix, " ".join(filter(None, (suffix, degree))))).rstrip("^")


def _safe(part: str) -> str:
    return re.sub(r"[\^=\\]", " ", part) if part != _NULL else ""


def entity(segment: Segment, field: int) -> tuple[str, str]:
    """EI: a number and who gave it."""
    number = segment.get(field)
    return ("", "") if number == _NULL else (number, segment.get(field, 2) or segment.get(field, 3))


def code(segment: Segment, field: int, first: int = 1) -> dict[str, str]:
    """CE or CWE from the component `first` on: {} where it has no code."""
    value, meaning, scheme = (segment.get(field, first + n) for n in range(3))
    if value in ("", _NULL):
        return {}
    return {"value": value, "scheme": scheme or "L", "meaning": meaning}


def parts(segment: Segment, field: int, *components: int) -> str:
    """Components that are given, with blanks between them."""
    return " ".join(filter(None, (segment.get(field, component) for component in components)))


def priority(text: str) -> str:
    """Of HL7 tables 0027, 0485 and habit to Requested Procedure Priority; '' for what is none."""
    return _PRIORITIES.get(text.strip().upper(), "")


def sex(text: str) -> str:
    """Administrative sex to Patient's Sex; what is unknown is absent."""
    return text if text == _NULL else _SEXES.get(text.upper(), "")
