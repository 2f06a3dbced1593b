"""Which way to the studies that match a search: by the keys of a rare value, by a name, or by walking over all.

A search wants the first so many in order of date. Three ways lead to them, and each is bad where another is good:

- `keys`: a filter's candidates are few; each is looked up and the rest of the filters tested on it.
- `names`: the rows of a word of the name are read, tested and sorted inside their index.
- `walk`: studies are taken in order of date and tested, within the range of dates if one is given.

Costs are estimated from bounded counts and from the statistics of PostgreSQL.
"""

from __future__ import annotations

# ruff: noqa: S608 - the statements are put together from constants only
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from storage.database import Connection
from storage.matching import Filter

__all__ = ["Plan", "plan"]

_PAGE = 100  # rows that a search wants
_WALK_US, _LOOKUP_US, _WORD_US = 2.5, 6.0, 0.5  # a study walked over, looked up by key, a row of name_words
_LEAST, _MOST = 300, 20_000  # bounds of what counts as rare
_COMMON = 2_000  # studies with a word: it is not counted further to compare it with others
_SAMPLE = 20_000  # rows of a common word that are read to see how the other filters share
_UNKNOWN = 100_000  # studies, before PostgreSQL has counted them


@dataclass(frozen=True, slots=True)
class Plan:
    """How to come to the studies, and what is left to test on each."""

    way: Literal["keys", "names", "walk"]
    driver: tuple[Filter, ...]  # keys: one filter; names: the words, of which the first is scanned
    tests: tuple[Filter, ...]

    @property
    def values(self) -> dict[str, Any]:
        """The values of all filters."""
        return {key: value for each in (*self.driver, *self.tests) for key, value in each.values.items()}


def plan(connection: Connection, given: Sequence[Filter], date: Filter | None) -> Plan:
    """The cheapest way. `date` is the range of study dates among `given`: a walk keeps to it, and so does a name."""
    words = [each for each in given if each.word_scan]
    indexed = [each for each in given if each.candidates and not each.word_scan]
    if not words and not indexed:
        return Plan("walk", (), tuple(given))
    total, counted = _counts(connection, indexed, words)
    rare = round(min(max(math.sqrt(total * _PAGE * _WALK_US / _LOOKUP_US), _LEAST), _MOST))
    best = min(indexed, key=lambda each: counted[id(each)], default=None)
    fewest = counted[id(best)] if best else _MOST + 1
    if words:
        words.sort(key=lambda each: counted[id(each)])
        if counted[id(words[0])] < min(fewest, _COMMON):
            return _by_name(words, given)
    if best is not None and fewest < rare:
        return Plan("walk", (), tuple(given)) if best is date else Plan("keys", (best,), _without(given, best))
    if words and _name_is_cheaper(connection, words, date, total, counted.get(id(date), total)):
        return _by_name(words, given)
    return Plan("walk", (), tuple(given))


def _by_name(words: list[Filter], given: Sequence[Filter]) -> Plan:
    return Plan("names", tuple(words), tuple(each for each in given if not each.word_scan))


def _without(given: Sequence[Filter], one: Filter) -> tuple[Filter, ...]:
    return tuple(each for each in given if each is not one)


def _counts(connection: Connection, indexed: list[Filter], words: list[Filter]) -> tuple[float, dict[int, int]]:
    """About how many studies there are, and how many each filter finds, as far as that matters."""
    limited = [(each, _MOST) for each in indexed] + [(each, _COMMON) for each in words]
    parts = ["(SELECT reltuples FROM pg_class WHERE oid = 'studies'::regclass)"]
    parts += [f"(SELECT count(*) FROM ({each.candidates} LIMIT {limit}) AS c)" for each, limit in limited]
    values = {key: value for each, _ in limited for key, value in each.values.items()}
    row = connection.execute(f"SELECT {', '.join(parts)}".encode(), values, prepare=False).fetchone()
    assert row is not None
    total = row[0] if row[0] > 0 else _UNKNOWN
    return total, {id(each): count for (each, _), count in zip(limited, row[1:], strict=True)}


def _name_is_cheaper(
    connection: Connection, words: list[Filter], date: Filter | None, total: float, dated: float
) -> bool:
    """Whether reading all rows of the word costs less than walking until a page is full."""
    scanned, *others = words
    tests = " AND ".join(each.word_test for each in others) or "true"
    values = {key: value for each in (*words, *((date,) if date else ())) for key, value in each.values.items()}
    scan = f"SELECT * FROM name_words AS n WHERE {scanned.word_scan}"
    sample = f"SELECT count(*), count(*) FILTER (WHERE {tests}) FROM ({scan} LIMIT {_SAMPLE}) AS n"
    read, matching = connection.execute(sample.encode(), values, prepare=False).fetchone() or (0, 0)
    having = float(read)
    if read == _SAMPLE:
        explained = connection.execute(f"EXPLAIN (FORMAT JSON) {scan}".encode(), values, prepare=False).fetchone()
        having = max(having, explained[0][0]["Plan"]["Plan Rows"] if explained else 0)
    if date is None or dated >= _MOST:
        dated = total
    chance = max(matching, 1) / max(read, 1) * having / total
    walked = min(dated, _PAGE / chance)
    return bool(having * _WORD_US < walked * _WALK_US)
