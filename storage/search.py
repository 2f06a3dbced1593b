"""Queries over the index: which patients, studies, series or instances match (`keys`), what they hold (`rows`).

The keys of a bounded result are found first and its rows fetched a few at a time, so that neither a transaction nor a
connection is held while a peer takes its answers.
"""

from __future__ import annotations

# ruff: noqa: S608 - the statements are put together from constants only
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from storage.attributes import Attribute, Level
from storage.conditions import filters_of
from storage.criteria import Dates, Query
from storage.database import Connection
from storage.matching import Filter
from storage.planning import Plan, completed, on_words, plan, scans

__all__ = ["Row", "Search", "Total", "keys", "rows", "total"]

Row = tuple[Any, ...]


class Total(NamedTuple):
    """How many match; `exact` is false where counting ended, and there are at least so many."""

    found: int
    exact: bool


_LATEST = "s.study_date DESC NULLS LAST, s.study_pk DESC"
_LATEST_NAMED = "n.study_date DESC NULLS LAST, n.study_fk DESC"
_BY_NUMBER = ", e.series_number NULLS LAST, e.series_pk"

# From a row of the level above to the rows below it; (SELECT ... OFFSET 0) keeps PostgreSQL from turning it around.
_DOWN = {
    Level.SERIES: ("series", "e", "e.study_fk = s.study_pk"),
    Level.IMAGE: ("instances", "i", "i.series_fk = e.series_pk"),
}
_COUNTS = (
    "CROSS JOIN LATERAL (SELECT count(*)::int AS series, coalesce(sum(found), 0)::int AS instances FROM (SELECT (SELECT"
    " count(*) FROM instances WHERE series_fk = series_pk AND NOT hidden) AS found FROM series"
    " WHERE study_fk = s.study_pk AND NOT hidden) AS b) AS counts"
)
_PARTS = {
    # What a condition on a lower level asks of a row of the query's level.
    Level.STUDY: "studies AS s",
    Level.SERIES: "series AS e",
    Level.IMAGE: "instances AS i",
}
_ORDER = {
    Level.PATIENT: "p.patient_pk DESC",
    Level.STUDY: _LATEST,
    Level.SERIES: _LATEST + _BY_NUMBER,
    Level.IMAGE: _LATEST + _BY_NUMBER + ", i.instance_number NULLS LAST, i.instance_pk",
}
_KEY = {
    Level.PATIENT: "p.patient_pk",
    Level.STUDY: "s.study_pk",
    Level.SERIES: "e.series_pk",
    Level.IMAGE: "i.instance_pk",
}


def keys(connection: Connection, query: Query | Search, *, limit: int, offset: int = 0) -> list[int]:
    """The keys of the rows of `query.level` that match, in their order; at most `limit`.

    Studies, and what is in them, come latest first, series and instances by their numbers; patients latest first.
    """
    search = _prepared(connection, query)
    sql = f"{search.statement(_KEY[search.level])} ORDER BY {search.order} OFFSET {int(offset)} LIMIT {int(limit)}"
    return [key for (key,) in connection.execute(sql.encode(), search.values, prepare=False)]


def total(connection: Connection, query: Query | Search, *, at_most: int) -> Total:
    """How many rows match, as far as `at_most`."""
    search = _prepared(connection, query)
    sql = f"SELECT count(*) FROM ({search.statement('1')} LIMIT {int(at_most) + 1}) AS found"
    row = connection.execute(sql.encode(), search.values, prepare=False).fetchone()
    assert row is not None
    return Total(min(row[0], at_most), row[0] <= at_most)


def rows(connection: Connection, level: Level, keys: Sequence[int], attributes: Sequence[Attribute]) -> Iterator[Row]:
    """The values of these attributes for these keys, in the order of the keys; what is gone or hidden is left out."""
    columns = [attribute.column(level) for attribute in attributes]
    assert all(columns), "an attribute of a lower level"
    used = " ".join(columns)
    sql = f"SELECT {', '.join(columns) or '1'} FROM {_up(level, used)} ORDER BY k.n"
    # Prepared: its plan is the same for all keys, and making it takes as long as the rows of a page.
    yield from connection.execute(sql.encode(), {"keys": list(keys)}, prepare=True, binary=True)


def _up(level: Level, used: str) -> str:
    """The rows of the level by their keys, with those above them that are used."""
    one = "CROSS JOIN LATERAL (SELECT * FROM {} WHERE {} AND NOT hidden OFFSET 0) AS {}"
    parts = ["unnest(%(keys)s::bigint[]) WITH ORDINALITY AS k (pk, n)"]
    if level is Level.PATIENT:
        return f"{parts[0]} CROSS JOIN LATERAL (SELECT * FROM patients WHERE patient_pk = k.pk OFFSET 0) AS p"
    key = "k.pk"
    if level is Level.IMAGE:
        parts.append(one.format("instances", "instance_pk = k.pk", "i"))
        key = "i.series_fk"
    if level >= Level.SERIES:
        parts.append(one.format("series", f"series_pk = {key}", "e"))
        key = "e.study_fk"
    parts.append(one.format("studies", f"study_pk = {key}", "s"))
    if "counts." in used:
        parts.append(_COUNTS)
    if "p." in used:
        parts.append("CROSS JOIN LATERAL (SELECT * FROM patients WHERE patient_pk = s.patient_fk OFFSET 0) AS p")
    return " ".join(parts)


def _prepared(connection: Connection, query: Query | Search) -> Search:
    return query if isinstance(query, Search) else Search(connection, query)


class Search:
    """A query with the way to its matches: the FROM and WHERE of its statements, and their order."""

    def __init__(self, connection: Connection, query: Query) -> None:
        self.level = query.level
        self._at: dict[int, Level] = {}  # the level at which a filter is tested, by its identity
        self._filters: list[Filter] = []
        self._date: Filter | None = None  # a range of study dates
        for n, condition in enumerate(query.conditions):
            for each in completed(connection, filters_of(condition, query.level, query.zone, f"c{n}")):
                self._filters.append(each)
                # From the level of studies on, a patient is tested with its study.
                self._at[id(each)] = max(condition.attribute.place(query.level), min(query.level, Level.STUDY))
                if condition.attribute.keyword == "StudyDate" and isinstance(condition.match, Dates):
                    self._date = each if "moment_of" not in each.test else None
        self._plan = plan(connection, self._filters, self._date)

    @property
    def values(self) -> dict[str, Any]:
        """The values that the statement refers to."""
        return {key: value for each in self._filters for key, value in each.values.items()}

    @property
    def order(self) -> str:
        """The order of the rows; that of studies is the one in which they are walked, or in which their names stand."""
        order = _ORDER[self.level]
        if self._plan.way != "names" or self.level is Level.PATIENT:
            return order
        return order.replace("s.study_date", "n.study_date").replace("s.study_pk", "n.study_fk")

    def statement(self, selected: str) -> str:
        """SELECT this FROM ... WHERE ..., in order up to the studies."""
        if self.level is Level.PATIENT:
            return self._patients(selected)
        source, conditions = self._studies()
        parts = [source]
        if "p." in " ".join(conditions):
            parts.append("CROSS JOIN LATERAL (SELECT * FROM patients WHERE patient_pk = s.patient_fk OFFSET 0) AS p")
        for level in (Level.SERIES, Level.IMAGE):
            if level <= self.level:
                table, alias, joined = _DOWN[level]
                tests = " AND ".join([f"NOT {alias}.hidden", joined, *self._tests(level)])
                parts.append(
                    f"CROSS JOIN LATERAL (SELECT {alias}.* FROM {table} AS {alias} WHERE {tests} OFFSET 0) AS {alias}"
                )
        return f"SELECT {selected} FROM {' '.join(parts)} WHERE {' AND '.join(conditions)}"

    def _studies(self) -> tuple[str, list[str]]:
        """Where studies come from, and what they are tested for.

        Ordered sources are subqueries of their own: PostgreSQL, which knows nothing of how dates and names go together,
        would now and then read all and sort.
        """
        chosen: Plan = self._plan
        tested = chosen.driver if chosen.way == "names" else ()  # candidates by key may be more than what matches
        conditions = ["NOT s.hidden", *self._tests(Level.STUDY, without=tested), *self._below()]
        if chosen.way == "keys":
            return "studies AS s", [*conditions, f"s.study_pk = ANY(ARRAY({chosen.driver[0].candidates}))"]
        if chosen.way == "walk":
            dated = f" AND {self._date.test}" if self._date is not None else ""
            return f"(SELECT * FROM studies AS s WHERE NOT hidden{dated} ORDER BY {_LATEST} OFFSET 0) AS s", conditions
        one = "CROSS JOIN LATERAL (SELECT * FROM studies WHERE study_pk = n.study_fk OFFSET 0) AS s"
        return f"({self._by_name()}) AS n {one}", conditions

    def _by_name(self) -> str:
        """The rows of the words of a name, the latest first: of several words for a beginning, merged."""
        scanned, *others = self._plan.driver
        tests = [each.word_test for each in others]
        if self._date is not None:
            tests.append(on_words(self._date))
        order = "ORDER BY study_date DESC NULLS LAST, study_fk DESC OFFSET 0"  # of each part, or all would be sorted
        parts = [
            f"(SELECT n.study_date, n.study_fk FROM name_words AS n WHERE {' AND '.join([scan, *tests])} {order})"
            for scan in scans(scanned)
        ]
        distinct = "DISTINCT" if scanned.beginning and not scanned.spelled else ""
        return f"SELECT {distinct} study_date, study_fk FROM ({' UNION ALL '.join(parts)}) AS w {order}"

    def _patients(self, selected: str) -> str:
        conditions = ["EXISTS (SELECT FROM studies WHERE patient_fk = p.patient_pk AND NOT hidden)"]
        conditions += [*self._tests(Level.PATIENT), *self._below()]
        if self._plan.way != "walk":
            found = self._by_name() if self._plan.way == "names" else self._plan.driver[0].candidates
            key = "study_fk" if self._plan.way == "names" else "*"
            conditions.append(
                "p.patient_pk = ANY(ARRAY(SELECT patient_fk FROM studies WHERE study_pk = ANY(ARRAY("
                f"SELECT {key} FROM ({found}) AS found))))"
            )
        return f"SELECT {selected} FROM patients AS p WHERE {' AND '.join(conditions)}"

    def _tests(self, level: Level, *, without: Sequence[Filter] = ()) -> list[str]:
        """The tests of filters at this level; on a patient, the words of its studies' names say nothing."""
        return [
            each.test.format(row="s")
            for each in self._filters
            if self._at[id(each)] == level
            and not any(each is one for one in without)
            and not (level is Level.PATIENT and each.word_scan)
        ]

    def _below(self) -> list[str]:
        """What a row of the query's level must have below it: conditions of one level hold for the same part."""
        found = []
        for level in Level:
            if level > self.level and (tests := self._tests(level)):
                tables, joined = self._path(level)
                found.append(f"EXISTS (SELECT FROM {tables} WHERE {' AND '.join([*joined, *tests])})")
        return found

    def _path(self, level: Level) -> tuple[str, list[str]]:
        """The tables from below the query's level down to `level`, and how they hang together."""
        links = {
            Level.STUDY: "s.patient_fk = p.patient_pk AND NOT s.hidden",
            Level.SERIES: "e.study_fk = s.study_pk AND NOT e.hidden",
            Level.IMAGE: "i.series_fk = e.series_pk AND NOT i.hidden",
        }
        between = [one for one in _PARTS if self.level < one <= level]
        return ", ".join(_PARTS[one] for one in between), [links[one] for one in between]
