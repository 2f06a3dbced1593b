"""The list of studies that wait for a reader. `ORDER BY due_at` is the whole policy."""

from __future__ import annotations

# ruff: noqa: S608 - the statements are put together from constants only
import base64
import datetime as dt
import json
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from psycopg.rows import class_row, dict_row

from storage import audit, matching, names, workers
from storage.database import Connection
from storage.errors import InvalidInput, InvalidUID, NotFound
from storage.uid import StudyUID

__all__ = ["CHANNEL", "Item", "Mode", "Page", "announce", "item", "mark_read", "mode", "page", "reopen"]

CHANNEL = "sangloc_worklist"  # LISTEN here to hear of changes

_NO_WORKER = "No model is running: the list is in order of arrival, nothing was brought forward."
_NO_MODEL = "No model could be loaded: the list is in order of arrival, nothing was brought forward. "


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One study on the list."""

    study_uid: str
    state: Literal["open", "read"]
    arrived_at: dt.datetime
    latest_due_at: dt.datetime
    due_at: dt.datetime
    status: Literal["waiting", "scored", "not_eligible", "failed"]
    reason: str
    flagged: bool
    probability: float | None
    model: str
    findings: list[dict[str, Any]]  # [{name, probability, threshold}] named ones, strongest first
    site: str
    priority: str  # stat | urgent | routine
    scored_at: dt.datetime | None
    read_at: dt.datetime | None
    read_by: str
    changed_at: dt.datetime
    patient_name: str  # for display
    patient_id: str
    patient_birth_date: dt.date | None
    patient_sex: str
    accession_number: str
    study_date: dt.date | None
    study_time: str
    description: str
    modalities: list[str]
    series_count: int
    instance_count: int


class Page(NamedTuple):
    """Part of the list and the cursor of what follows (None at its end)."""

    items: list[Item]
    next: str | None


class Mode(NamedTuple):
    """Whether the list is in triage order now, and what to tell people if not."""

    mode: Literal["triage", "arrival"]
    banner: str


# Order of the list by (state, mode): column and direction.
_ORDERS = {
    ("open", "triage"): ("due_at", ">", "ASC"),
    ("open", "arrival"): ("arrived_at", ">", "ASC"),
    ("read", "triage"): ("read_at", "<", "DESC"),
    ("read", "arrival"): ("read_at", "<", "DESC"),
}

_ITEM = """
SELECT w.study_uid, w.state, w.arrived_at, w.latest_due_at, w.due_at, w.status, w.reason, w.flagged, w.probability,
    w.model, w.findings, w.site, w.priority, w.scored_at, w.read_at, w.read_by, w.changed_at, s.patient_name,
    s.patient_id, s.patient_birth_date, s.patient_sex, s.accession_number, s.study_date, s.study_time, s.description,
    w.modalities, e.series_count, e.instance_count
FROM listed AS w
CROSS JOIN LATERAL (SELECT * FROM studies WHERE study_pk = w.study_fk OFFSET 0) AS s
CROSS JOIN LATERAL (
    SELECT count(*) AS series_count, coalesce(sum((
        SELECT count(*) FROM instances WHERE series_fk = series_pk AND NOT instances.hidden
    )), 0)::bigint AS instance_count
    FROM series WHERE study_fk = w.study_fk AND NOT hidden
) AS e"""


def page(
    connection: Connection,
    *,
    mode: Literal["triage", "arrival"],
    state: Literal["open", "read"] = "open",
    flagged: bool | None = None,
    site: str | None = None,
    modality: str | None = None,
    date_from: dt.date | None = None,
    date_to: dt.date | None = None,
    name: str | None = None,
    patient_id: str | None = None,
    accession: str | None = None,
    status: str | None = None,
    after: str | None = None,
    limit: int = 50,
) -> Page:
    """Part of the list: open studies by due time (mode triage) or arrival, read ones by reading time, latest first.

    Dates are study dates, both included; each word of `name` matches the beginning of a word of the patient's name,
    without regard to marks, case and order. Raises `InvalidInput` for a cursor that is not from this order.
    """
    column, beyond, direction = _ORDERS[state, mode]
    values: dict[str, Any] = {
        "flagged": flagged, "limit": limit + 1,
        "site": None if site is None else matching.comparable(site),
        "status": None if status is None else matching.comparable(status),
    }  # fmt: skip
    conditions = [f"w.state = '{state}'"]
    conditions += [sql for key, sql in _COLUMN_TESTS.items() if values[key] is not None]
    if after is not None:
        values["after_at"], values["after_uid"] = _decode(after, column)
        conditions.append(f"(w.{column}, w.study_uid) {beyond} (%(after_at)s, %(after_uid)s)")
    asked = matching.filters(
        patient_id=patient_id, accession=accession, name=name, modality=modality, date_from=date_from, date_to=date_to
    )
    chosen = matching.choose(connection, asked)
    conditions.append(chosen.condition("w.study_fk", "w"))
    listed = (
        f"SELECT w.* FROM worklist AS w {_STUDY_ROW if chosen.tests else ''} WHERE {' AND '.join(conditions)}"
        f" ORDER BY w.{column} {direction}, w.study_uid {direction} LIMIT %(limit)s"
    )
    sql = f"WITH listed AS MATERIALIZED ({listed}) {_ITEM} ORDER BY w.{column} {direction}, w.study_uid {direction}"
    items = _items(connection, sql, {**values, **chosen.values})
    following = _encode(column, items[limit - 1]) if len(items) > limit else None
    return Page(items[:limit], following)


# One look-up for all tests of a row that is walked over.
_STUDY_ROW = (
    "CROSS JOIN LATERAL (SELECT patient_id, accession_number, patient_name_key FROM studies"
    " WHERE study_pk = w.study_fk OFFSET 0) AS s"
)
_COLUMN_TESTS = {
    "flagged": "w.flagged = %(flagged)s",
    "site": "w.site = %(site)s",
    "status": "w.status = %(status)s",
}


def item(connection: Connection, study_uid: str) -> Item:
    """The row of one study, open or read; raises `NotFound`."""
    listed = (
        "SELECT * FROM worklist WHERE state <> 'hidden'"
        " AND study_fk = (SELECT study_pk FROM studies WHERE studies.study_uid = %(study_uid)s)"
    )
    found = _items(connection, f"WITH listed AS MATERIALIZED ({listed}) {_ITEM}", {"study_uid": study_uid})
    if not found:
        raise NotFound(f"There is no study {study_uid}.")
    return found[0]


def mark_read(connection: Connection, study_uid: str, actor: str) -> None:
    """Take a study off the list: a person has read it. Raises `NotFound`; a study already read stays as it is."""
    _move(connection, study_uid, actor, "read", "state = 'read', read_at = clock_timestamp(), read_by = %(actor)s")


def reopen(connection: Connection, study_uid: str, actor: str) -> None:
    """Put a study back, at the due time it had. Raises `NotFound`; an open study stays as it is."""
    _move(connection, study_uid, actor, "open", "state = 'open', read_at = NULL, read_by = ''")


def mode(connection: Connection, stale_s: float = 15) -> Mode:
    """Triage while a worker with a model was seen within `stale_s` seconds; otherwise arrival, with the reason."""
    running = workers.alive(connection, stale_s)
    if any(worker.model for worker in running):
        return Mode("triage", "")
    problem = next((worker.problem for worker in running if worker.problem), "")
    return Mode("arrival", _NO_MODEL + problem if running else _NO_WORKER)


def announce(connection: Connection) -> None:
    """Tell listeners that the list changed; after the transaction that changed it."""
    connection.execute("SELECT pg_notify(%s, '')", (CHANNEL,))


def _items(connection: Connection, sql: str, values: dict[str, Any]) -> list[Item]:
    with connection.cursor(row_factory=class_row(Item)) as cursor:
        found = cursor.execute(sql.encode(), values, prepare=False).fetchall()
    return [_displayed(each) for each in found]


def _displayed(given: Item) -> Item:
    object.__setattr__(given, "patient_name", names.display(given.patient_name))
    return given


def _move(connection: Connection, study_uid: str, actor: str, state: str, change: str) -> None:
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(
            "SELECT study_fk, state FROM worklist WHERE study_fk = (SELECT study_pk FROM studies"
            " WHERE studies.study_uid = %s) AND state <> 'hidden' FOR UPDATE",
            (study_uid,),
        ).fetchone()
        if found is None:
            raise NotFound(f"There is no study {study_uid}.")
        if found["state"] == state:
            return
        values = {"actor": actor, "study_fk": found["study_fk"]}
        cursor.execute(f"UPDATE worklist SET {change}, changed_at = now() WHERE study_fk = %(study_fk)s", values)
        audit.add(connection, actor, "study.read" if state == "read" else "study.reopened", study_uid)


def _encode(column: str, last: Item) -> str:
    text = json.dumps([column, getattr(last, column).isoformat(), last.study_uid])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(cursor: str, column: str) -> tuple[dt.datetime, str]:
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        found_column, at, study_uid = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        moment = dt.datetime.fromisoformat(at)
        if found_column != column or moment.tzinfo is None or not isinstance(study_uid, str):
            raise ValueError(found_column)
        return moment, StudyUID(study_uid)
    except (ValueError, TypeError, RecursionError, InvalidUID) as error:
        raise InvalidInput("The cursor is not from this list: begin at its first page.") from error
