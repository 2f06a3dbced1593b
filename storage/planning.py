"""Which way to the studies that match a search: by the keys of a rare value, by a name, or by walking over all.

A search wants the first so many in order of date. Three ways lead to them, and each is bad where another is good:

- `keys`: a filter's candidates are few; each is looked up and the rest of the filters tested on it.
- `names`: the rows of a word of the name are read inside their index, within the range of dates, and the other words
  are tested there.
- `walk`: studies are taken in order of date and tested, within the range of dates.

Costs are estimated from bounded counts, samples and the statistics of PostgreSQL.
"""

from __future__ import annotations

# ruff: noqa: S608 - the statements are put together from constants only
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from storage.database import Connection
from storage.matching import LAST, Filter

__all__ = ["Plan", "completed", "on_words", "plan", "scans"]

_LATEST = "ORDER BY n.study_date DESC NULLS LAST, n.study_fk DESC"
_PAGE = 100  # rows that a search wants
_WALK_US, _LOOKUP_US, _WORD_US = 2.5, 6.0, 0.7  # a study walked over, looked up by key, a row of name_words
_CHEAP_US = 10_000  # what costs less is taken without a look at the others
_MOST = 20_000  # rows of an indexed value: it is not counted further
_COMMON = 2_000  # the same for rows of a word
_SAMPLE = 5_000  # rows of a common word that are read to see how the other words share
_UNKNOWN = 100_000  # studies, before PostgreSQL has counted them
_EXPANDED = 32  # words that begin in one way; of more, the range is read


@dataclass(frozen=True, slots=True)
class Plan:
    """How to come to the studies. Words as `driver` are tested on the way, the candidates of a key still must be."""

    way: Literal["keys", "names", "walk"]
    driver: tuple[Filter, ...] = ()  # keys: one filter; names: the words, of which the first is read


def completed(connection: Connection, given: Sequence[Filter]) -> list[Filter]:
    """The same filters, with the words for a beginning: rows of one word are in order of date, those of a range not."""
    short = [each for each in given if each.beginning]
    if not short:
        return list(given)
    selects: list[str] = []
    values: dict[str, str] = {}
    for n, each in enumerate(short):
        values |= {f"b{n}": each.beginning, f"e{n}": each.beginning + LAST}
        following = f"SELECT word FROM name_words WHERE word {{}} AND word < %(e{n})s ORDER BY word LIMIT 1"
        selects.append(
            f"(WITH RECURSIVE w AS (({following.format(f'>= %(b{n})s')}) UNION ALL"
            f" SELECT ({following.format('> w.word')}) FROM w WHERE w.word IS NOT NULL)"
            f" SELECT ARRAY(SELECT word FROM w WHERE word IS NOT NULL LIMIT {_EXPANDED + 1}))"
        )
    sql = f"SELECT {', '.join(selects)}"
    row = connection.execute(sql.encode(), values, prepare=True).fetchone()  # one plan is right for every beginning
    assert row is not None
    found = dict(zip(map(id, short), row, strict=True))
    return [_with_words(each, found.get(id(each))) for each in given]


def _with_words(each: Filter, words: list[str] | None) -> Filter:
    if words is None or len(words) > _EXPANDED:
        return each
    key = next(iter(each.values))
    values = {**each.values, key: words, f"{key}_likes": [f"% {word} %" for word in words]}
    return replace(each, word_scan=f"n.word = ANY(%({key})s)", spelled=len(words), values=values)


def scans(word: Filter) -> list[str]:
    """The rows of a word in pieces, each in order of date in the index, a study in one of them; of a range not so."""
    if not word.spelled:
        return [word.word_scan]
    key = next(iter(word.values))
    first, *others = (f"n.word = (%({key})s::text[])[{n}]" for n in range(1, word.spelled + 1))
    once = f"NOT (' ' || n.words || ' ') LIKE ANY((%({key}_likes)s::text[])[1:{{}}])"  # a name with several of them
    return [first, *(f"{scan} AND {once.format(n)}" for n, scan in enumerate(others, 1))]


def plan(connection: Connection, given: Sequence[Filter], date: Filter | None) -> Plan:
    """The cheapest way. `date`, one of `given`, is a range of study dates."""
    words = [each for each in given if each.word_scan]
    indexed = [each for each in given if each.candidates and not each.word_scan]
    if not words and all(each is date for each in indexed):
        return Plan("walk")  # by dates nothing is quicker, however many there are
    costs = _Costs(connection, date)
    costs.count(indexed, words)
    best = min(indexed, key=costs.of, default=None)
    words.sort(key=costs.of)
    if words and costs.of(words[0]) < min(_COMMON, costs.of(best) if best else _COMMON):
        return Plan("names", tuple(words))
    ways = {"walk": costs.walk_us(best), "keys": math.inf, "names": math.inf}
    if best is not None and best is not date and costs.of(best) < _MOST:
        ways["keys"] = costs.of(best) * _LOOKUP_US
    if words and min(ways["keys"], costs.dated_us()) > _CHEAP_US:
        ways["names"], ways["walk"] = costs.names_us(words)
    way = min(ways, key=lambda each: ways[each])
    if way == "keys" and best is not None:
        return Plan("keys", (best,))
    return Plan("names", tuple(words)) if way == "names" else Plan("walk")


class _Costs:
    """What is known of how many rows each filter finds."""

    def __init__(self, connection: Connection, date: Filter | None) -> None:
        self._connection = connection
        self._date = date
        self._within = f" AND {on_words(date)}" if date is not None else ""
        self._counts: dict[int, float] = {}
        self.total = float(_UNKNOWN)

    def of(self, one: Filter) -> float:
        """The rows of a filter, counted as far as that mattered."""
        return self._counts[id(one)]

    def count(self, indexed: list[Filter], words: list[Filter]) -> None:
        """Bounded counts of all, in one statement."""
        selects = [f"SELECT FROM ({each.candidates}) AS c LIMIT {_MOST}" for each in indexed]
        selects += [f"{self._scan(each)} LIMIT {_COMMON}" for each in words]
        parts = ["(SELECT reltuples FROM pg_class WHERE oid = 'studies'::regclass)"]
        parts += [f"(SELECT count(*) FROM ({select}) AS c)" for select in selects]
        # A name is read in its indexes whatever it is: such a plan can be kept. The best one for other values varies.
        kept = all("patient_name_key" in each.candidates for each in indexed)
        total, *counts = self._execute(f"SELECT {', '.join(parts)}", [*indexed, *words], prepare=kept)
        self.total = total if total > 0 else _UNKNOWN
        self._counts = {id(each): count for each, count in zip([*indexed, *words], counts, strict=True)}

    def walk_us(self, rarest: Filter | None) -> float:
        """What a walk costs until a page is full, if the filters other than the rarest pass all; microseconds."""
        dated = self.of(self._date) if self._date is not None else self.total
        if dated >= _MOST:
            dated = self.total
        share = 1.0 if rarest is None or rarest is self._date else max(self.of(rarest), 1) / self.total
        return min(dated, _PAGE / min(share, 1.0)) * _WALK_US

    def dated_us(self) -> float:
        """What a walk over all of the range of dates costs, whatever else is asked; microseconds."""
        dated = self.of(self._date) if self._date is not None else _MOST
        return math.inf if dated >= _MOST else dated * _WALK_US

    def names_us(self, words: list[Filter]) -> tuple[float, float]:
        """What reading the rows of a word costs, and what a walk that looks for them; puts the cheapest word first."""
        for each in words:
            self._counts[id(each)] = max(self.of(each), self._estimated(self._scan(each), [each]))
        words.sort(key=self.of)
        scanned, *others = words
        dated = self.total
        if self._date is not None:
            dated = max(self.of(self._date), self._estimated(self._date.candidates, [self._date]))
        tests = " AND ".join(each.word_test for each in others) or "true"
        parts = scans(scanned)
        sample = " UNION ALL ".join(
            f"(SELECT * FROM name_words AS n WHERE {part}{self._within} {_LATEST} LIMIT {_SAMPLE // len(parts)})"
            for part in parts
        )
        read, matching = self._execute(f"SELECT count(*), count(*) FILTER (WHERE {tests}) FROM ({sample}) AS n", words)
        expected = max(matching, 1) / max(read, 1) * self.of(scanned)

        def needed(word: Filter) -> float:
            having = self.of(word)
            return min(having, _PAGE * having / expected) if _is_ordered(word) else having

        words.sort(key=needed)
        walked = min(dated, _PAGE * dated / expected)
        return needed(words[0]) * _WORD_US + min(expected, _PAGE) * _LOOKUP_US, walked * _WALK_US

    def _scan(self, word: Filter, selected: str = "") -> str:
        return f"SELECT {selected} FROM name_words AS n WHERE {word.word_scan}{self._within}"

    def _estimated(self, select: str, used: list[Filter]) -> float:
        """The rows that PostgreSQL expects."""
        (explained,) = self._execute(f"EXPLAIN (FORMAT JSON) {select}", used)
        return float(explained[0]["Plan"]["Plan Rows"])

    def _execute(self, sql: str, used: Sequence[Filter], *, prepare: bool = False) -> tuple[Any, ...]:
        filters = [*used, *((self._date,) if self._date is not None else ())]
        values = {key: value for each in filters for key, value in each.values.items()}
        row = self._connection.execute(sql.encode(), values, prepare=prepare).fetchone()
        assert row is not None
        return row


def on_words(date: Filter) -> str:
    """The test of a range of study dates on a row `n` of name_words."""
    return date.test.replace("s.study_date", "n.study_date")


def _is_ordered(word: Filter) -> bool:
    """Whether its rows can be read the latest first."""
    return not word.beginning or word.spelled > 0
