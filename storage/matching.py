"""Filters over studies that stay fast however common or rare what they look for is.

Each filter can be asked in two ways: give me the studies that match (for rare values), or does this study match (while
walking the studies in the wanted order, for common values). A bounded count decides which filter drives the query.
"""

from __future__ import annotations

# ruff: noqa: S608 - the statements are put together from constants only
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from storage import names
from storage.database import Connection

__all__ = ["LAST", "Filter", "Matching", "choose", "comparable", "counts", "filters", "word_filter"]

_RARE = 3_000  # studies: looking up each takes about 5 ms in all; among 100,000 a walk meets 50 as soon
_COMMON = 2_000  # studies with a word: it is not counted further, which takes about 0.2 ms
LAST = "\U0010ffff"  # sorts behind everything that can follow a prefix


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition on a study: the keys of those that match, and a test of one."""

    candidates: str  # SELECT of study keys; '' where no index has them
    test: str  # on `s`, the row of the study; {row} has a copy of the modalities, too
    values: dict[str, Any]
    word_test: str = ""  # of a word: the test on a row `n` of name_words
    word_scan: str = ""  # of a word: the rows `n` of name_words that have it
    beginning: str = ""  # of a word of which only this is known
    spelled: int = 0  # so many words that begin so stand in its first value


@dataclass(frozen=True, slots=True)
class Matching:
    """How to ask: the filter that drives (None: walk in order), and the tests for the others."""

    driver: Filter | None
    tests: tuple[Filter, ...]

    def condition(self, pk: str, row: str) -> str:
        """All of it as one SQL condition on the study key `pk` and on `s`."""
        parts = [each.test.format(row=row) for each in self.tests]
        if self.driver is not None:
            parts.append(f"{pk} = ANY(ARRAY({self.driver.candidates}))")
        return " AND ".join(parts) or "true"

    @property
    def values(self) -> dict[str, Any]:
        """The values that `condition` refers to."""
        given = (*self.tests, self.driver) if self.driver else self.tests
        return {key: value for each in given for key, value in each.values.items()}


def filters(
    *,
    patient_id: str | None = None,
    accession: str | None = None,
    name: str | None = None,
    modality: str | None = None,
    study_uids: Sequence[str] | None = None,
    date_from: dt.date | None = None,
    date_to: dt.date | None = None,
) -> list[Filter]:
    """The filters that are given; dates are both included.

    Each word of `name` is one of its own and matches as a prefix of a folded word.
    """
    found = []
    if study_uids is not None:
        found.append(_column("study_uid", [comparable(uid) for uid in study_uids]))
    if patient_id is not None:
        found.append(_column("patient_id", [comparable(patient_id)]))
    if accession is not None:
        found.append(_column("accession_number", [comparable(accession)]))
    if modality is not None:
        found.append(_modality(comparable(modality)))
    if date_from is not None or date_to is not None:
        found.append(_dates(date_from, date_to))
    return found + [word_filter(f"word{n}", word) for n, word in enumerate(names.words(name or ""))]


def choose(connection: Connection, given: Sequence[Filter]) -> Matching:
    """Let the rarest filter drive if it is rare; otherwise walk, and test the rarest first."""
    words = [each for each in given if each.word_test]
    if len(words) > 1:
        given = [_together(connection, words), *(each for each in given if not each.word_test)]
    if not given:
        return Matching(None, ())
    found = counts(connection, given, _RARE)
    by_count = sorted(range(len(given)), key=lambda n: found[n])
    rarest, *others = (given[n] for n in by_count)
    if found[by_count[0]] < _RARE:
        return Matching(rarest, tuple(others))
    return Matching(None, (rarest, *others))


def counts(connection: Connection, given: Sequence[Filter], limit: int) -> Sequence[int]:
    """How many studies each filter finds, as far as `limit`; all have candidates."""
    parts = ", ".join(f"(SELECT count(*) FROM ({each.candidates} LIMIT {limit}) AS c)" for each in given)
    values = {key: value for each in given for key, value in each.values.items()}
    found = connection.execute(f"SELECT {parts}".encode(), values, prepare=False).fetchone()
    assert found is not None
    return found


def _together(connection: Connection, words: Sequence[Filter]) -> Filter:
    """One filter for all words: common ones, too, may be rare together.

    Its candidates are found here, once, and only the first `_RARE` of them: with so many it does not drive.
    """
    by_count = counts(connection, words, _COMMON)
    # Of common words the last, which is the given name where families share a few names.
    rarest, *others = (words[n] for n in sorted(range(len(words)), key=lambda n: (by_count[n], -n)))
    values = {key: value for each in words for key, value in each.values.items()}
    sql = " AND ".join((rarest.candidates, *(each.word_test for each in others)))
    found = connection.execute(f"SELECT ARRAY({sql} LIMIT {_RARE})".encode(), values, prepare=False).fetchone()
    assert found is not None
    test = " AND ".join(each.test for each in (rarest, *others))
    return Filter("SELECT unnest(%(named)s::bigint[])", test, {**values, "named": found[0]})


def _column(column: str, values: list[str]) -> Filter:
    return Filter(
        f"SELECT study_pk FROM studies WHERE {column} = ANY(%({column})s)",
        f"s.{column} = ANY(%({column})s)",
        {column: values},
    )


def _modality(modality: str) -> Filter:
    return Filter(
        "SELECT study_fk FROM series WHERE modality = %(modality)s",
        "{row}.modalities @> ARRAY[%(modality)s]",
        {"modality": modality},
    )


def _dates(date_from: dt.date | None, date_to: dt.date | None) -> Filter:
    tests = {"date_from": (date_from, "study_date >= %(date_from)s"), "date_to": (date_to, "study_date <= %(date_to)s")}
    given = {key: (value, sql) for key, (value, sql) in tests.items() if value is not None}
    return Filter(
        f"SELECT study_pk FROM studies WHERE NOT hidden AND {' AND '.join(sql for _, sql in given.values())}",
        " AND ".join(f"{{row}}.{sql}" for _, sql in given.values()),
        {key: value for key, (value, _) in given.items()},
    )


def word_filter(key: str, word: str, *, whole: bool = False) -> Filter:
    """Studies with a name of which a folded word is this one, or begins so. Values are named with `key`."""
    scan = f"n.word = %({key})s" if whole else f"n.word >= %({key})s AND n.word < %({key}_end)s"
    like = {f"{key}_like": f"% {word} %" if whole else f"% {word}%"}  # \w only: no wildcard inside
    return Filter(
        f"SELECT study_fk FROM name_words AS n WHERE {scan}",
        f"(' ' || s.patient_name_key || ' ') LIKE %({key}_like)s",
        {key: word, **({} if whole else {f"{key}_end": word + LAST}), **like},
        f"(' ' || n.words || ' ') LIKE %({key}_like)s",
        scan,
        "" if whole else word,
    )


def comparable(value: str) -> str:
    """What can be compared to text in PostgreSQL: a NUL or a lone surrogate matches nothing."""
    return value.replace("\0", "\ufffd").encode(errors="replace").decode()
