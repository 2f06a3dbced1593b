"""Scheduled steps as a modality asks for them: those on the modality worklist, by station, modality and time."""

from __future__ import annotations

# ruff: noqa: S608 - the statements are put together from constants only
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.rows import class_row

from storage.database import Connection
from storage.matching import comparable

__all__ = ["Planned", "Wanted", "planned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What narrows the search; None and empty are no condition. The caller tests whatever else was asked."""

    ae_title: str | None = None
    modalities: Sequence[str] = ()
    first: dt.datetime | None = None  # of the start, on the clocks of the hospital; both included
    last: dt.datetime | None = None
    patient_id: str | None = None
    accession_number: str | None = None
    study_uids: Sequence[str] = ()
    procedure_id: str | None = None
    step_id: str | None = None
    name_words: Sequence[str] = ()  # folded beginnings of words of the patient's name


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One scheduled step, with the document of its order."""

    step_pk: int
    start_at: dt.datetime
    procedure_id: str
    step_id: str
    content: dict[str, Any]


_CONDITIONS = {
    "ae_title": "s.ae_title IN (%(ae_title)s, '')",
    "modalities": "s.modality = ANY(%(modalities)s)",
    "first": "s.start_at >= %(first)s",
    "last": "s.start_at <= %(last)s",
    "patient_id": "o.patient_id = %(patient_id)s",
    "accession_number": "o.accession_number = %(accession_number)s AND o.accession_number <> ''",
    "procedure_id": "s.procedure_id = %(procedure_id)s",
    "step_id": "s.step_id = %(step_id)s",
    "study_uids": "s.study_uid = ANY(%(study_uids)s)",
}


def planned(connection: Connection, wanted: Wanted, after: tuple[dt.datetime, int] | None, limit: int) -> list[Planned]:
    """Steps that are on the worklist, by start; those behind `after` (start and key of the last one seen)."""
    values: dict[str, Any] = {"limit": limit}
    conditions = ["s.listed"]
    for key, sql in _CONDITIONS.items():
        value = getattr(wanted, key)
        if value not in (None, (), []):
            conditions.append(sql)
            values[key] = _plain(value)
    for n, word in enumerate(wanted.name_words):
        conditions.append(f"(' ' || o.patient_name_key) LIKE %(word{n})s")
        values[f"word{n}"] = f"% {word}%"
    if after is not None:
        conditions.append("(s.start_at, s.step_pk) > (%(after_at)s, %(after_pk)s)")
        values["after_at"], values["after_pk"] = after
    with connection.cursor(row_factory=class_row(Planned)) as cursor:
        return cursor.execute(
            "SELECT s.step_pk, s.start_at, s.procedure_id, s.step_id, o.content"
            " FROM order_steps AS s JOIN orders AS o ON o.order_pk = s.order_fk"
            f" WHERE {' AND '.join(conditions)} ORDER BY s.start_at, s.step_pk LIMIT %(limit)s".encode(),
            values,
            prepare=False,
        ).fetchall()


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return comparable(value)
    return [comparable(each) for each in value] if isinstance(value, (list, tuple)) else value
