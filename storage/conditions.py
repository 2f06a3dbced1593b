"""From a condition on an attribute to SQL: a test of one row, and where an index helps, the studies that can match."""

from __future__ import annotations

# ruff: noqa: S608 - the statements are put together from constants only
import datetime as dt
from itertools import islice, product
from typing import Any

from psycopg.types.json import Jsonb

from storage import names
from storage.attributes import PAIRS, Attribute, Kind, Level
from storage.criteria import Condition, Dates, Items, Match, Moments, Names, Numbers, Patterns, Texts, Times
from storage.matching import LAST, Filter, comparable, word_filter

__all__ = ["filters_of"]

_DAY = dt.timedelta(days=1)

_REQUESTS = "RequestAttributesSequence"  # has an index of its own kind
_MOST_ITEMS = 20  # combinations of values that are looked up in it

# Attributes with an index, and the SELECT of the studies that hold one of the values, by column.
_INDEXED = {
    "PatientID": ("SELECT study_pk FROM studies WHERE", "patient_id"),
    "AccessionNumber": ("SELECT study_pk FROM studies WHERE", "accession_number"),
    "StudyInstanceUID": ("SELECT study_pk FROM studies WHERE", "study_uid"),
    "SeriesInstanceUID": ("SELECT study_fk FROM series WHERE", "series_uid"),
    "Modality": ("SELECT study_fk FROM series WHERE", "modality"),
    "ModalitiesInStudy": ("SELECT study_fk FROM series WHERE", "modality"),
    "SOPInstanceUID": ("SELECT study_fk FROM instances WHERE", "sop_uid"),
}
_PAIR_OF = {one: pair for pair in PAIRS.values() for one in pair}


def filters_of(condition: Condition, level: Level, zone: int | None, prefix: str) -> list[Filter]:
    """The filters of one condition in a query of this level; all must hold.

    Each test is on the row of the attribute's own level, or on that of the query where that has the attribute too.
    Values are named with `prefix`.
    """
    made = _Filters(condition.attribute, level, zone, prefix)
    return made.of(condition.match)


class _Filters:
    def __init__(self, attribute: Attribute, level: Level, zone: int | None, prefix: str) -> None:
        self._attribute = attribute
        self._level = max(level, attribute.level)
        self._column = attribute.column(self._level)
        self._zone = zone
        self._prefix = prefix
        self._values: dict[str, Any] = {}

    def of(self, match: Match) -> list[Filter]:
        if isinstance(match, Names):
            return self._names(match)
        if isinstance(match, Dates) and (self._zone is None or self._attribute not in _PAIR_OF):
            return [
                Filter(self._date_candidates(match), self._between(self._column, match.first, match.last), self._values)
            ]
        return [Filter(self._candidates(match), self._test(match), self._values)]

    def _value(self, value: Any) -> str:
        name = f"{self._prefix}_{len(self._values)}"
        self._values[name] = value
        return f"%({name})s"

    # ---- tests

    def _test(self, match: Match) -> str:
        if isinstance(match, Texts | Patterns):
            return self._texts(match)
        if isinstance(match, Numbers):
            return f"{self._column} = ANY({self._value(list(match.values))}::bigint[])"
        if isinstance(match, Dates | Times | Moments):
            return self._when(match)
        return self._items(match) if isinstance(match, Items) else self._empty()

    def _when(self, match: Dates | Times | Moments) -> str:
        """A test on a moment in the zone of the query, or on what was sent where that gives none."""
        if isinstance(match, Times):
            time = f"time_of({self._column})" if self._zone is None else f"{self._moment()}::time"
            return self._between(time, match.first, match.last)
        if isinstance(match, Moments):
            first, last = (bound and bound.date() for bound in (match.first, match.last))
            exact = self._moment()
        else:
            first, last, exact = match.first, match.last, f"{self._moment()}::date"
        return f"{self._around(first, last)} AND {self._between(exact, match.first, match.last)}"

    def _texts(self, match: Texts | Patterns) -> str:
        kind = self._attribute.kind
        if kind in {Kind.TEXTS, Kind.JOINED}:
            array = self._column if kind is Kind.TEXTS else f"string_to_array({self._column}, '\\')"
            if isinstance(match, Texts):
                return f"{array} && {self._value(_comparable(match))}::text[]"
            return f"EXISTS (SELECT FROM unnest({array}) AS each WHERE {self._one('each', match)})"
        return self._one(self._column, match)

    def _one(self, column: str, match: Texts | Patterns) -> str:
        if isinstance(match, Texts):
            return f"{column} = ANY({self._value(_comparable(match))}::text[])"
        return f"{column} LIKE ANY({self._value([_like(pattern) for pattern in match.values])}::text[])"

    def _between(self, column: str, first: Any, last: Any) -> str:
        tests = [
            f"{column} {sign} {self._value(bound)}"
            for sign, bound in ((">=", first), ("<=", last))
            if bound is not None
        ]
        return " AND ".join(tests) or f"{column} IS NOT NULL"

    def _moment(self) -> str:
        date, time = (one.column(self._level) for one in _PAIR_OF[self._attribute])
        return f"moment_of({date}, {time}, s.timezone_offset, {self._value(self._zone)}::integer)"

    def _around(self, first: dt.date | None, last: dt.date | None) -> str:
        """A range of days that an index can use and no zone leaves."""
        date = _PAIR_OF[self._attribute][0].column(self._level)
        slack = _DAY if self._zone is not None else dt.timedelta()
        return self._between(date, _moved(first, -slack), _moved(last, slack))

    def _items(self, match: Items) -> str:
        tests = [
            self._one(f"item->>'{keyword}'", one) for keyword, one in match.matches if isinstance(one, Texts | Patterns)
        ]
        return (
            f"EXISTS (SELECT FROM jsonb_array_elements({self._column}) AS item WHERE {' AND '.join(tests) or 'true'})"
        )

    def _empty(self) -> str:
        if self._attribute.kind in {Kind.DATE, Kind.NUMBER}:
            return f"{self._column} IS NULL"
        if self._attribute.kind is Kind.ITEMS:
            return f"coalesce({self._column}, '[]') = '[]'"
        return f"{self._column} = {'ARRAY[]::text[]' if self._attribute.kind is Kind.TEXTS else repr('')}"

    # ---- candidates

    def _candidates(self, match: Match) -> str:
        if isinstance(match, Items) and self._attribute.keyword == _REQUESTS:
            return self._request_candidates(match)
        select, column = _INDEXED.get(self._attribute.keyword, ("", ""))
        if not select:
            return self._moment_candidates(match)
        if isinstance(match, Texts):
            return f"{select} {column} = ANY({self._value(_comparable(match))}::text[])"
        if isinstance(match, Patterns) and len(match.values) == 1:
            start = comparable(match.values[0].split("*")[0].split("?")[0])
            if start:
                return f"{select} {column} >= {self._value(start)} AND {column} < {self._value(start + LAST)}"
        return ""

    def _request_candidates(self, match: Items) -> str:
        values = {keyword: _comparable(one) for keyword, one in match.matches if isinstance(one, Texts)}
        items = [dict(zip(values, each, strict=True)) for each in islice(product(*values.values()), _MOST_ITEMS + 1)]
        if not values or len(items) > _MOST_ITEMS:
            return ""
        tests = " OR ".join(f"request_attributes @> {self._value(Jsonb([item]))}" for item in items)
        return f"SELECT study_fk FROM series WHERE request_attributes <> '[]' AND ({tests})"

    def _moment_candidates(self, match: Match) -> str:
        if isinstance(match, Moments):
            slack = _DAY if self._zone is not None else dt.timedelta()
            first, last = (bound and bound.date() for bound in (match.first, match.last))
            return self._date_candidates(Dates(_moved(first, -slack), _moved(last, slack)))
        if isinstance(match, Dates):
            return self._date_candidates(Dates(_moved(match.first, -_DAY), _moved(match.last, _DAY)))
        return ""

    def _date_candidates(self, match: Dates) -> str:
        if self._attribute.keyword != "StudyDate":
            return ""
        return (
            f"SELECT study_pk FROM studies WHERE NOT hidden AND {self._between('study_date', match.first, match.last)}"
        )

    # ---- names

    def _names(self, match: Names) -> list[Filter]:
        """Words that are indexed first, one filter each; then what they cannot say."""
        found = []
        if len(match.values) == 1 and self._attribute.keyword == "PatientName":
            pairs = (
                [(word, False) for word in names.words(match.values[0])]
                if match.fuzzy
                else names.pattern_words(match.values[0])
            )
            found = [
                word_filter(f"{self._prefix}w{n}", word, whole=whole)
                for n, (word, whole) in enumerate(dict.fromkeys(pairs))
            ]
            if match.fuzzy and self._level > Level.PATIENT:
                return found
        self._values = {}
        tests = [
            " AND ".join(f"{self._column} ~ {self._value(regex)}" for regex in _regexes(value, match))
            for value in match.values
        ]
        test = "(" + " OR ".join(f"({each or 'true'})" for each in tests) + ")"
        return [*found, Filter(self._name_candidates(match), test, self._values)]

    def _name_candidates(self, match: Names) -> str:
        """Studies with a name that begins as the pattern does."""
        if match.fuzzy or len(match.values) > 1 or self._attribute.keyword != "PatientName":
            return ""
        start = names.pattern_beginning(match.values[0])
        if not start:
            return ""
        bounds = f"patient_name_key >= {self._value(start)} AND patient_name_key < {self._value(start + LAST)}"
        return f"SELECT study_pk FROM studies WHERE {bounds}"


def _regexes(value: str, match: Names) -> list[str]:
    return names.fuzzy_regexes(value) if match.fuzzy else names.pattern_regexes(value)


def _comparable(match: Texts) -> list[str]:
    return [comparable(value) for value in match.values]


def _like(pattern: str) -> str:
    escaped = comparable(pattern).replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%").replace("?", "_")


def _moved(day: dt.date | None, by: dt.timedelta) -> dt.date | None:
    try:
        return None if day is None else day + by
    except OverflowError:
        return day
