"""Unified Procedure Steps: workitems, their state and lock, and the studies that they need (PS3.4 CC)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from storage.database import Connection
from storage.errors import Conflict, NotFound

__all__ = [
    "CHANNEL",
    "OURS",
    "Columns",
    "Criteria",
    "State",
    "Workitem",
    "add",
    "candidates",
    "due",
    "get",
    "notify",
    "write",
]

CHANNEL = "sangloc_workitems"  # LISTEN here to hear of workitems and of their events
OURS: Final = "sangloc"
State = Literal["SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What is looked for by index, taken from the attributes."""

    ready: bool
    start_at: dt.datetime
    expires_at: dt.datetime | None
    label: str
    worklist_label: str
    patient_id: str
    study_uids: list[str]
    performer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Workitem:
    """One workitem as it stands; `attributes` are in the DICOM JSON model, without the transaction UID."""

    workitem_pk: int
    workitem_uid: str
    state: State
    transaction_uid: str | None
    performer: str
    study_uids: list[str]
    attributes: dict[str, Any]
    created_at: dt.datetime
    expired: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """What narrows a search by index; None asks for nothing."""

    workitem_uids: Sequence[str] | None = None
    states: Sequence[str] | None = None
    patient_id: str | None = None
    study_uids: Sequence[str] | None = None


_SELECT = (
    "SELECT workitem_pk, workitem_uid, state, transaction_uid, performer, study_uids, attributes, created_at,"
    " coalesce(expires_at < now(), false) AS expired FROM workitems "
)


def add(connection: Connection, uid: str, attributes: Mapping[str, Any], columns: Columns, created_by: str) -> None:
    """Keep a new workitem in state SCHEDULED; raises `Conflict` when there is one of that UID."""
    made = connection.execute(
        "INSERT INTO workitems (workitem_uid, performer, ready, start_at, expires_at, label, worklist_label,"
        " patient_id, study_uids, attributes, created_by) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (workitem_uid) DO NOTHING RETURNING workitem_pk",
        (uid, columns.performer, *_values(columns), Jsonb(dict(attributes)), created_by),
    ).fetchone()
    if made is None:
        raise Conflict("There is a workitem of this UID already (PS3.4 CC.2.5.3)")


def get(connection: Connection, uid: str, *, lock: bool = False) -> Workitem:
    """One workitem, with `lock` until the end of the transaction; raises `NotFound`."""
    with connection.cursor(row_factory=class_row(Workitem)) as cursor:
        tail = " FOR UPDATE" if lock else ""
        found = cursor.execute(_SELECT + "WHERE workitem_uid = %s" + tail, (uid,)).fetchone()
    if found is None:
        raise NotFound("There is no such workitem (PS3.4 CC.2.1.3, C307)")
    return found


def write(
    connection: Connection,
    workitem_pk: int,
    attributes: Mapping[str, Any],
    columns: Columns,
    *,
    state: State,
    transaction_uid: str | None,
) -> None:
    """Put what has become of a workitem that the caller holds locked. Its performer never changes."""
    connection.execute(
        "UPDATE workitems SET ready = %s, start_at = %s, expires_at = %s, label = %s, worklist_label = %s,"
        " patient_id = %s, study_uids = %s, attributes = %s, state = %s, transaction_uid = %s, changed_at = now()"
        " WHERE workitem_pk = %s",
        (*_values(columns), Jsonb(dict(attributes)), state, transaction_uid, workitem_pk),
    )


def candidates(connection: Connection, criteria: Criteria, *, limit: int) -> list[Workitem]:
    """Workitems that an index finds, the newest first."""
    with connection.cursor(row_factory=class_row(Workitem)) as cursor:
        return cursor.execute(
            _SELECT + "WHERE (%(uids)s::text[] IS NULL OR workitem_uid = ANY(%(uids)s))"
            " AND (%(states)s::text[] IS NULL OR state = ANY(%(states)s))"
            " AND (%(patient)s::text IS NULL OR patient_id = %(patient)s)"
            " AND (%(studies)s::text[] IS NULL OR study_uids && %(studies)s)"
            " ORDER BY workitem_pk DESC LIMIT %(limit)s",
            {
                "uids": _list(criteria.workitem_uids),
                "states": _list(criteria.states),
                "patient": criteria.patient_id,
                "studies": _list(criteria.study_uids),
                "limit": limit,
            },
            prepare=False,  # which index serves depends on what is given
        ).fetchall()


def due(connection: Connection, *, after: int = 0, limit: int = 100) -> list[tuple[int, str]]:
    """Workitems that we perform, to be begun, looked at again, or expired: `workitem_pk` and UID, the oldest first."""
    return connection.execute(
        "SELECT workitem_pk, workitem_uid FROM workitems WHERE performer <> '' AND workitem_pk > %s"
        " AND (state = 'IN PROGRESS'"
        " OR (state = 'SCHEDULED' AND (expires_at < now() OR (ready AND start_at <= now()))))"
        " ORDER BY workitem_pk LIMIT %s",
        (after, limit),
    ).fetchall()


def notify(connection: Connection) -> None:
    """Tell those who listen that there is something new; after the commit."""
    connection.execute("SELECT pg_notify(%s, '')", (CHANNEL,))


def _values(columns: Columns) -> tuple[object, ...]:
    return (
        columns.ready,
        columns.start_at,
        columns.expires_at,
        columns.label,
        columns.worklist_label,
        columns.patient_id,
        columns.study_uids,
    )


def _list(values: Sequence[str] | None) -> list[str] | None:
    return None if values is None else list(values)
