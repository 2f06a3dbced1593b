"""Filters over studies that stay fast however common or rare what they look for is.

Each filter can be asked in two ways: give me the studies that match (for rare values), or does this study match (while
walking the studies in the wanted order, for common values). A bounded count decides which filter drives the query.
"""

from __future__ import annotations

# ruff: noqa: S608 - the statements are put together from constants only
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from storage import names
from storage.database import Connection

__all__ = ["Filter", "Matching", "choose", "filters"]

_RARE = 4000  # studies: looking each of them up takes about 10 ms
_LAST = "\U0010ffff"  # sorts behind everything that can follow a prefix


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition on a study; `{pk}` in `test` stands for the key of the study in the outer query."""

    candidates: str  # SELECT study_pk of what matches
    test: str
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Matching:
    """How to ask: the filter that drives (None: walk in order), and the tests for the others."""

    driver: Filter | None
    tests: tuple[Filter, ...]

    def condition(self, pk: str) -> str:
        """All of it as one SQL condition on the study key `pk`."""
        parts = [each.test.replace("{pk}", pk) for each in self.tests]
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
) -> list[Filter]:
    """The filters that are given; each word of `name` is one of its own and matches as a prefix of a folded word."""
    found = []
    if study_uids is not None:
        found.append(_study_column("study_uid", list(study_uids)))
    if patient_id is not None:
        found.append(_study_column("patient_id", [patient_id]))
    if accession is not None:
        found.append(_study_column("accession_number", [accession]))
    if modality is not None:
        found.append(_modality(modality))
    for n, word in enumerate(names.words(name or "")):
        found.append(_word(n, word))
    return found


def choose(connection: Connection, given: Sequence[Filter]) -> Matching:
    """Let the rarest filter drive if it is rare; otherwise walk."""
    if not given:
        return Matching(None, ())
    counts = ", ".join(f"(SELECT count(*) FROM ({each.candidates} LIMIT {_RARE}) AS c)" for each in given)
    values = {key: value for each in given for key, value in each.values.items()}
    found = connection.execute(f"SELECT {counts}", values, prepare=False).fetchone()
    assert found is not None
    rarest = min(range(len(given)), key=lambda n: found[n])
    if found[rarest] >= _RARE:
        return Matching(None, tuple(given))
    return Matching(given[rarest], tuple(each for n, each in enumerate(given) if n != rarest))


def _study_column(column: str, values: list[str]) -> Filter:
    return Filter(
        f"SELECT study_pk FROM studies WHERE {column} = ANY(%({column})s)",
        f"(SELECT {column} FROM studies WHERE study_pk = {{pk}}) = ANY(%({column})s)",
        {column: values},
    )


def _modality(modality: str) -> Filter:
    return Filter(
        "SELECT study_fk FROM series WHERE modality = %(modality)s",
        "(SELECT true FROM series WHERE study_fk = {pk} AND modality = %(modality)s LIMIT 1)",
        {"modality": modality},
    )


def _word(n: int, word: str) -> Filter:
    between = f"word >= %(word{n})s AND word < %(word{n}_end)s"
    return Filter(
        f"SELECT study_fk FROM name_words WHERE {between}",
        f"(SELECT true FROM name_words WHERE study_fk = {{pk}} AND {between} LIMIT 1)",
        {f"word{n}": word, f"word{n}_end": word + _LAST},
    )
