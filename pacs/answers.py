"""The matches of a query as elements, a few at a time: what C-FIND encodes and QIDO-RS writes as JSON or XML."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pacs.identifiers import Element
from pacs.query import TIMEZONE, Parsed
from storage import search
from storage.attributes import BY_TAG, PAIRS, Attribute, Kind, Level, nested
from storage.criteria import Query
from storage.database import Database

__all__ = ["Found", "converter", "find"]

_CHUNK = 200  # rows fetched at a time

Convert = Callable[[Any], Sequence[Any]]


class Found:
    """The matches of one query: `cut` is true when there are more than were asked for; `search` can count them.

    No connection is held between two steps of an iteration.
    """

    def __init__(
        self, database: Database, parsed: Parsed, looked_for: search.Search, keys: Sequence[int], *, cut: bool
    ) -> None:
        self._database, self._parsed, self._keys = database, parsed, keys
        self.search, self.cut = looked_for, cut

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[dict[int, Element]]:
        """The elements of each match. Raises `DatabaseUnavailable`."""
        make = _Maker(self._parsed)
        return map(make.elements, self._rows(make.attributes))

    @property
    def attributes(self) -> tuple[Attribute, ...] | None:
        """Those of `rows`; None where the elements are more than the rows: dates in another time zone."""
        return self._parsed.wanted if self._parsed.query.zone is None else None

    def rows(self) -> Iterator[search.Row]:
        """The values of `attributes` of each match, as the index has them. Raises `DatabaseUnavailable`."""
        return self._rows(self._parsed.wanted)

    def _rows(self, attributes: Sequence[Attribute]) -> Iterator[search.Row]:
        for at in range(0, len(self._keys), _CHUNK):
            with self._database.autocommit() as connection:
                keys = self._keys[at : at + _CHUNK]
                rows = list(search.rows(connection, self._parsed.query.level, keys, attributes))
            yield from rows


def find(database: Database, parsed: Parsed, *, limit: int, offset: int = 0) -> Found:
    """Look for at most `limit` matches. Raises `DatabaseUnavailable`, also for a query that takes too long."""
    with database.autocommit() as connection:
        looked_for = search.Search(connection, parsed.query)
        keys = search.keys(connection, looked_for, limit=limit + 1, offset=offset)
    return Found(database, parsed, looked_for, keys[:limit], cut=len(keys) > limit)


def _text(value: str) -> Sequence[str]:
    return (value,) if value else ()


def _texts(value: Sequence[str]) -> Sequence[str]:
    return value


def _joined(value: str) -> Sequence[str]:
    return value.split("\\") if value else ()


def _number(value: int | None) -> Sequence[int]:
    return () if value is None else (value,)


def _date(value: dt.date | None) -> Sequence[str]:
    return () if value is None else (value.isoformat().replace("-", ""),)


_CONVERT: dict[Kind, Convert] = {
    Kind.UID: _text,
    Kind.TEXT: _text,
    Kind.NAME: _text,
    Kind.TIME: _text,
    Kind.FIXED: _text,
    Kind.DATE: _date,
    Kind.NUMBER: _number,
    Kind.TEXTS: _texts,
    Kind.JOINED: _joined,
}


def converter(attribute: Attribute) -> Convert:
    """From what the index has to the values of the element."""
    if attribute.kind is Kind.COUNTED:
        return _texts if attribute.vr == "UI" else _number
    if attribute.kind is Kind.ITEMS:
        inside = nested(attribute)
        return lambda items: [
            {tag: Element(vr, _text(item[keyword])) for tag, (keyword, vr) in inside.items() if keyword in item}
            for item in items or ()
        ]
    return _CONVERT[attribute.kind]


class _Maker:
    """From the rows of one query to elements."""

    def __init__(self, parsed: Parsed) -> None:
        self._query = parsed.query
        self._wanted = {attribute.tag for attribute in parsed.wanted}
        self.attributes = [*parsed.wanted]
        if self._query.zone is not None:
            self._pairs = _pairs(self._query)
            needed = [BY_TAG[TIMEZONE], *(one for pair in self._pairs for one in pair)] if self._pairs else []
            self.attributes += [one for one in needed if one.tag not in self._wanted]
        self._parts = [(attribute.tag, attribute.vr, converter(attribute)) for attribute in self.attributes]

    def elements(self, row: search.Row) -> dict[int, Element]:
        found = {tag: Element(vr, convert(value)) for (tag, vr, convert), value in zip(self._parts, row, strict=True)}
        if self._query.zone is not None and self._pairs:
            self._move(found, self._query.zone)
            found = {tag: element for tag, element in found.items() if tag in self._wanted}
        return found

    def _move(self, found: dict[int, Element], zone: int) -> None:
        """Give dates and times in the zone of the query, where their own is known (PS3.4 C.4.1.1.3.1)."""
        sent = found[TIMEZONE].values
        offset = _minutes(sent[0]) if sent else None
        if offset is None:
            return
        for date, time in self._pairs:
            moment = _moment(found[date.tag].values, found[time.tag].values)
            if moment is not None:
                moment += dt.timedelta(minutes=zone - offset)
                found[date.tag] = Element("DA", (f"{moment:%Y%m%d}",))
                found[time.tag] = Element("TM", (f"{moment:%H%M%S.%f}".removesuffix(".000000"),))
        found[TIMEZONE] = Element("SH", (f"{'-' if zone < 0 else '+'}{abs(zone) // 60:02}{abs(zone) % 60:02}",))


def _pairs(query: Query) -> list[tuple[Attribute, Attribute]]:
    return [pair for pair in PAIRS.values() if query.level > Level.PATIENT and pair[0].level <= query.level]


def _minutes(offset: str) -> int | None:
    if len(offset) != 5 or offset[0] not in "+-" or not offset[1:].isdigit():
        return None
    return (int(offset[1:3]) * 60 + int(offset[3:])) * (-1 if offset[0] == "-" else 1)


def _moment(date: Sequence[str], time: Sequence[str]) -> dt.datetime | None:
    """A date with its time, if that is whole to the minute."""
    digits = time[0].replace(":", "") if time else ""
    for form in ("%Y%m%d%H%M%S.%f", "%Y%m%d%H%M%S", "%Y%m%d%H%M"):
        try:
            return dt.datetime.strptime(date[0] + digits, form) if date and digits else None
        except ValueError:
            continue
    return None
