"""What a query asks, as values: each kind of matching of PS3.4 C.2.2.2, checked and free of DICOM's encodings."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TypeAlias

from storage.attributes import Attribute, Level

__all__ = [
    "Condition",
    "Dates",
    "Empty",
    "Items",
    "Match",
    "Moments",
    "Names",
    "Numbers",
    "Patterns",
    "Query",
    "Texts",
    "Times",
]


@dataclass(frozen=True, slots=True)
class Texts:
    """One of these values, compared whole and with case: single value, list of UID, multiple value matching."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Patterns:
    """One of these patterns: `*` is any text, `?` any one character (PS3.4 C.2.2.2.4)."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Names:
    """A person name as `storage.names` matches it: one of these patterns, or of fuzzy words."""

    values: tuple[str, ...]
    fuzzy: bool


@dataclass(frozen=True, slots=True)
class Dates:
    """From the first day to the last, both included; None: without bound (PS3.4 C.2.2.2.5.1)."""

    first: dt.date | None
    last: dt.date | None


@dataclass(frozen=True, slots=True)
class Times:
    """Within a day from the first time to the last, both included."""

    first: dt.time
    last: dt.time


@dataclass(frozen=True, slots=True)
class Moments:
    """A date and its time as one moment, both bounds included (PS3.4 C.2.2.2.5.4); for the date of a pair."""

    first: dt.datetime | None
    last: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Numbers:
    """One of these numbers."""

    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Empty:
    """No value at all (PS3.4 C.2.2.2.7)."""


@dataclass(frozen=True, slots=True)
class Items:
    """An item in which all of these match, by keyword (PS3.4 C.2.2.2.6)."""

    matches: tuple[tuple[str, Match], ...]


Match: TypeAlias = Texts | Patterns | Names | Dates | Times | Moments | Numbers | Empty | Items


@dataclass(frozen=True, slots=True)
class Condition:
    """One attribute and what it must be."""

    attribute: Attribute
    match: Match


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for.

    `zone`: minutes east of UTC in which dates and times are given and wanted back; None: as each study has them.
    Conditions on attributes below the level hold for what has such a part.
    """

    level: Level
    conditions: tuple[Condition, ...] = ()
    zone: int | None = None
