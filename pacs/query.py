"""What a DICOM query asks, from its keys as text to `storage.criteria.Query` (PS3.4 C.2.2.2).

C-FIND identifiers and QIDO-RS parameters end here alike: as values by tag. Errors name the attribute, never the value:
it may be a patient's.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from pacs.identifiers import CHARACTER_SET, Element, Elements
from storage.attributes import BY_TAG, PAIRS, UNIQUE_KEYS, Attribute, Kind, Level, nested
from storage.criteria import (
    Condition,
    Dates,
    Empty,
    Items,
    Match,
    Moments,
    Names,
    Numbers,
    Patterns,
    Query,
    Texts,
    Times,
)
from storage.errors import InvalidIdentifier, InvalidInput

__all__ = ["LEVEL", "RETRIEVE_AE_TITLE", "TIMEZONE", "Options", "Parsed", "parse", "require_unique_keys", "zone_of"]

LEVEL, TIMEZONE, RETRIEVE_AE_TITLE = 0x00080052, 0x00080201, 0x00080054
_NO_KEYS = frozenset({LEVEL, CHARACTER_SET, 0x00080053})  # level, character set, query/retrieve view

_MAX_VALUES = 10_000  # of one key: UIDs of a list
_MAX_CHARACTERS = 256  # of one value; PS3.5 6.2 allows 64 for most, 3 x 64 for person names
_EMPTY = '""'  # PS3.4 C.2.2.2.7
_NO_WILDCARDS = frozenset({"AS", "UI", "IS", "US"})

_T = TypeVar("_T")

_UID = re.compile(r"[0-9.]{1,64}")
_NUMBER = re.compile(r"[+-]?[0-9]{1,10}")
_TIME = re.compile(r"([0-9]{2})(?::?([0-9]{2})(?::?([0-9]{2})(?:\.([0-9]{1,6}))?)?)?")
_ZONE = re.compile(r"([+-])([0-9]{2})([0-9]{2})")


class Options(NamedTuple):
    """What extended negotiation can agree on (PS3.4 C.5.1.1), in the order of its bytes."""

    relational: bool = False
    combined: bool = False  # a range of dates and one of times are one range of moments
    fuzzy: bool = False
    zones: bool = False  # never needed: a time zone in the keys says enough
    multi_frame: bool = False
    empty_values: bool = False
    multiple_values: bool = False  # never needed: a backslash in a key says enough

    @classmethod
    def of(cls, agreed: bytes) -> Options:
        """From the application information of the negotiation."""
        return cls(*(byte == 1 for byte in agreed[: len(cls._fields)]))


@dataclass(frozen=True, slots=True)
class Parsed:
    """A query, the attributes to return, and the tags of keys that are not supported for that or for matching."""

    query: Query
    wanted: tuple[Attribute, ...]
    unsupported: tuple[int, ...] = ()


def require_unique_keys(keys: Elements, level: Level, top: Level) -> None:
    """A hierarchical query names one entity of each level above its own (PS3.4 C.4.1.2.1).

    Raises `InvalidIdentifier`.
    """
    for above in Level:
        if top <= above < level:
            unique = UNIQUE_KEYS[above]
            values = keys[unique.tag].values if unique.tag in keys else ()
            if len(values) != 1 or "*" in values[0] or "?" in values[0]:
                raise InvalidIdentifier(f"A query at this level needs one {unique.keyword}.")


def parse(keys: Elements, level: Level, options: Options) -> Parsed:
    """The query of these keys; those without a value are only to be returned.

    Raises `InvalidInput` for a value that its VR does not allow.
    """
    zone = zone_of(keys)
    matches: dict[Attribute, Match] = {}
    wanted = {UNIQUE_KEYS[level]: None}
    unsupported = []
    for tag, element in keys.items():
        attribute = BY_TAG.get(tag)
        if attribute is None or (attribute.level > level and not options.relational):
            unsupported += [tag] if tag not in _NO_KEYS and tag != RETRIEVE_AE_TITLE else []
            continue
        if attribute.level <= level:
            wanted[attribute] = None
        if tag == TIMEZONE and zone is not None:
            continue
        match, understood = _Key(attribute, options).match(element)
        unsupported += [] if understood else [tag]
        if match is not None:
            matches[attribute] = match
    if options.combined:
        _combine(matches, keys)
    conditions = tuple(Condition(attribute, match) for attribute, match in matches.items())
    return Parsed(Query(level, conditions, zone), tuple(wanted), tuple(unsupported))


def zone_of(keys: Elements) -> int | None:
    """Minutes east of UTC in which the dates and times of the keys are; None: in that of each study."""
    values = keys[TIMEZONE].values if TIMEZONE in keys else ()
    if not values or not values[0]:
        return None
    found = _ZONE.fullmatch(str(values[0]))
    minutes = (int(found[2]) * 60 + int(found[3])) * (-1 if found[1] == "-" else 1) if found else 10_000
    if found is None or int(found[3]) > 59 or not -12 * 60 <= minutes <= 14 * 60:  # PS3.3 C.12.1.1.8
        raise InvalidInput("TimezoneOffsetFromUTC is not of the form +HHMM or -HHMM.")
    return minutes


class _Key:
    """The matching of one attribute."""

    def __init__(self, attribute: Attribute, options: Options) -> None:
        self._attribute = attribute
        self._options = options

    def match(self, element: Element) -> tuple[Match | None, bool]:
        """How it is matched, None: universally; and whether all of it is understood."""
        kind = self._attribute.kind
        if kind is Kind.ITEMS:
            return self._items(element)
        if element.vr == "SQ":
            raise self._malformed("no sequence")
        values = [str(value) for value in element.values]
        if self._options.empty_values and values == [_EMPTY]:
            return (None, False) if kind in {Kind.COUNTED, Kind.FIXED} else (Empty(), True)
        if not any(values) or any(value.strip("*") == "" for value in values):
            return None, True  # universal: nothing, or '*', which matches what is empty, too
        if kind in {Kind.COUNTED, Kind.FIXED}:
            return None, False
        if len(values) > _MAX_VALUES or max(map(len, values)) > _MAX_CHARACTERS:
            raise self._malformed(f"more than {_MAX_VALUES} values, or one of more than {_MAX_CHARACTERS} characters")
        return self._values([value for value in values if value]), True

    def _values(self, values: Sequence[str]) -> Match | None:
        kind = self._attribute.kind
        if kind is Kind.DATE:
            days = Dates(*self._range(values, self._day))
            if days.first is not None and days.last is not None and days.first > days.last:
                raise self._malformed("a range from the earlier to the later date")
            return days
        if kind is Kind.TIME:
            first, last = self._range(values, self._time)
            return Times(first[0] if first else dt.time.min, last[1] if last else dt.time.max)
        if kind is Kind.NAME:
            return Names(tuple(values), self._options.fuzzy)
        if kind is Kind.NUMBER:
            return Numbers(tuple(self._number(value) for value in values))
        if kind is Kind.UID and not all(map(_UID.fullmatch, values)):
            raise self._malformed("a UID")
        if self._attribute.vr not in _NO_WILDCARDS and any("*" in value or "?" in value for value in values):
            return Patterns(tuple(values))
        return Texts(tuple(values))

    def _items(self, element: Element) -> tuple[Match | None, bool]:
        if element.vr != "SQ" or len(element.values) > 1:
            raise self._malformed("a sequence of one item")
        item: Mapping[int, Element] = element.values[0] if element.values else {}
        inside = nested(self._attribute)
        matches = []
        for tag in item.keys() & inside.keys():
            keyword, vr = inside[tag]
            key = Attribute(keyword, tag, vr, Kind.TEXT, self._attribute.columns)
            match, _ = _Key(key, self._options).match(item[tag])
            matches += [(keyword, match)] if match is not None else []
        understood = item.keys() <= inside.keys()
        return (Items(tuple(matches)) if matches else None), understood

    def _range(self, values: Sequence[str], one: Callable[[str], _T]) -> tuple[_T | None, _T | None]:
        if len(values) != 1:
            raise self._malformed("one value or one range")
        first, dash, last = (part.strip() for part in values[0].partition("-"))
        if not first and not last:
            raise self._malformed("a range with an end")
        bounds = one(first) if first else None, one(last) if last else None
        return bounds if dash else (bounds[0], bounds[0])

    def _day(self, text: str) -> dt.date:
        digits = text.replace(".", "") if len(text) == 10 else text  # YYYY.MM.DD of ACR-NEMA
        if len(digits) == 8 and digits.isascii() and digits.isdigit():
            try:
                return dt.date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
            except ValueError:
                pass
        raise self._malformed("a date YYYYMMDD or a range of two")

    def _time(self, text: str) -> tuple[dt.time, dt.time]:
        """The first and the last moment that the time means in its precision."""
        found = _TIME.fullmatch(text)
        if found is None:
            raise self._malformed("a time HHMMSS.FFFFFF, whole or its beginning, or a range of two")
        hour, minute, second, fraction = found.groups()
        second = "59" if second == "60" else second  # a leap second
        try:
            return (
                dt.time(int(hour), int(minute or 0), int(second or 0), int((fraction or "").ljust(6, "0"))),
                dt.time(int(hour), int(minute or 59), int(second or 59), int((fraction or "").ljust(6, "9"))),
            )
        except ValueError:
            raise self._malformed("a time of the day") from None

    def _number(self, text: str) -> int:
        if not _NUMBER.fullmatch(text):
            raise self._malformed("an integer")
        return int(text)

    def _malformed(self, wanted: str) -> InvalidInput:
        return InvalidInput(f"{self._attribute.keyword} is malformed: {wanted} is asked for.")


def _combine(matches: dict[Attribute, Match], keys: Elements) -> None:
    """A range of dates and one of times of the same pair become one range of moments (PS3.4 C.2.2.2.5.4)."""
    for date, time in PAIRS.values():
        days, times = matches.get(date), matches.get(time)
        ranges = all("-" in str(keys[one.tag].values) for one in (date, time) if one.tag in keys)
        if isinstance(days, Dates) and isinstance(times, Times) and ranges:
            matches[date] = Moments(
                None if days.first is None else dt.datetime.combine(days.first, times.first),
                None if days.last is None else dt.datetime.combine(days.last, times.last),
            )
            del matches[time]
