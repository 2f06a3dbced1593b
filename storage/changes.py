"""The history of changes that people and peers make to what is stored: who, when, why, before and after.

A change runs in one transaction that holds the advisory lock of `begin` alone; ingest holds it shared. So no change
meets half a batch, and none is lost: what arrives during a change waits for some milliseconds and then sees it.
"""

from __future__ import annotations

# ruff: noqa: S608 - the statements are put together from constants only
import contextlib
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from storage import audit, jobs, worklist
from storage.database import Connection, Database
from storage.errors import InvalidInput, NotFound

__all__ = [
    "CHANNEL", "By", "Change", "Kind", "begin", "get", "page", "preview", "record", "settle", "write",
]  # fmt: skip

CHANNEL = "sangloc_changes"  # LISTEN here to hear of changes: rejection notes to make or apply, objects to purge

Kind = Literal[
    "delete", "reject", "restore", "update_patient", "update_study", "update_series", "merge_patients", "move_study",
    "merge_studies", "split", "undo",
]  # fmt: skip

_IDLE_MS = 5_000  # a client that hangs inside a change holds up ingest for no longer
_MAX_WORDS = 1_000  # characters of a reason
_COLUMNS = """
    change_pk, at, actor, kind, reason, comment, detail, before, after, note_uid, purge_after, restored_at, purged_at,
    undone_by, ARRAY(SELECT study_uid FROM changed_studies WHERE change_fk = change_pk ORDER BY 1) AS study_uids"""

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class By:
    """Who changes something, and why."""

    actor: str
    reason: str
    comment: str = ""

    def __post_init__(self) -> None:
        if not self.actor or not self.reason.strip():
            raise InvalidInput("A change needs a reason.")
        for words in (self.reason, self.comment):
            if len(words) > _MAX_WORDS or "\0" in words:
                raise InvalidInput(f"A reason has at most {_MAX_WORDS} characters, none of them NUL.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change as it stands in the history."""

    change_pk: int
    at: dt.datetime
    actor: str
    kind: Kind
    reason: str
    comment: str
    detail: dict[str, Any]
    before: dict[str, dict[str, dict[str, Any]]]  # {studies | series | patients: {key: {column: value}}}
    after: dict[str, dict[str, dict[str, Any]]]
    note_uid: str
    purge_after: dt.datetime | None
    restored_at: dt.datetime | None
    purged_at: dt.datetime | None
    undone_by: int | None
    study_uids: list[str] = field(default_factory=list)


class _PreviewedError(Exception):
    """Rolls a preview back."""


def begin(connection: Connection) -> None:
    """Wait until nobody else changes or indexes anything; first thing in the transaction of a change."""
    connection.execute("SELECT set_config('idle_in_transaction_session_timeout', %s, true)", (str(_IDLE_MS),))
    connection.execute("SELECT lock_changes()")


def write(database: Database, change: Callable[[Connection], _Result], *, dry_run: bool = False) -> _Result:
    """Run a change in a transaction of its own and tell who listens; with `dry_run` all of it is rolled back.

    Raises: what `change` raises; `DatabaseUnavailable`.
    """
    if dry_run:
        return preview(database, change)
    with database.transaction() as connection:
        begin(connection)
        result = change(connection)
    with contextlib.suppress(Exception), database.autocommit() as connection:  # whoever listens looks by himself, too
        connection.execute("SELECT pg_notify(%s, '')", (CHANNEL,))
        worklist.announce(connection)
        jobs.notify(connection)
    return result


def preview(database: Database, change: Callable[[Connection], _Result]) -> _Result:
    """What a change would do: it is done and rolled back, so that the two cannot differ."""
    results: list[_Result] = []
    with contextlib.suppress(_PreviewedError), database.transaction() as connection:
        begin(connection)
        results.append(change(connection))
        raise _PreviewedError
    return results[0]


def record(
    connection: Connection,
    kind: Kind,
    by: By,
    study_uids: Sequence[str],
    *,
    detail: Mapping[str, Any] | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    note_uid: str = "",
    purge_after: dt.datetime | None = None,
) -> Change:
    """Write a change to the history of its studies and to the audit log, in the transaction of the change."""
    found = connection.execute(
        "INSERT INTO changes (actor, kind, reason, comment, detail, before, after, note_uid, purge_after)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING change_pk",
        (by.actor, kind, by.reason, by.comment, Jsonb(dict(detail or {})), Jsonb(dict(before or {})),
         Jsonb(dict(after or {})), note_uid, purge_after),
    ).fetchone()  # fmt: skip
    assert found is not None
    change_pk: int = found[0]
    connection.execute(
        "INSERT INTO changed_studies (study_uid, change_fk) SELECT DISTINCT unnest(%s::text[]), %s",
        (list(study_uids), change_pk),
    )
    for study_uid in sorted(set(study_uids)) or [""]:
        audit.add(connection, by.actor, f"change.{kind}", study_uid, {"change": change_pk, "reason": by.reason})
    return get(connection, change_pk)


def settle(connection: Connection, study_pks: Sequence[int]) -> None:
    """Bring hidden flags, modalities and worklist rows of these studies in line with their visible instances.

    Who was told what is available (PS3.4 R) is told again.
    """
    keys = sorted(set(study_pks))
    connection.execute("SELECT FROM worklist WHERE study_fk = ANY(%s) ORDER BY study_fk FOR UPDATE", (keys,))
    connection.execute("SELECT settle_studies(%s)", (keys,))
    connection.execute(  # one that is under way just now as well: `changed_at` says that it was about something else
        "UPDATE availability_notices SET run_after = CASE state WHEN 'done' THEN now() ELSE run_after END,"
        " attempts = CASE state WHEN 'done' THEN 0 ELSE attempts END, state = 'waiting', changed_at = now()"
        " WHERE study_fk = ANY(%s) AND state IN ('done', 'waiting')",
        (keys,),
    )


def get(connection: Connection, change_pk: int) -> Change:
    """One change; raises `NotFound`."""
    with connection.cursor(row_factory=class_row(Change)) as cursor:
        found = cursor.execute(f"SELECT {_COLUMNS} FROM changes WHERE change_pk = %s".encode(), (change_pk,)).fetchone()
    if found is None:
        raise NotFound(f"There is no change {change_pk}.")
    return found


def page(connection: Connection, *, study_uid: str = "", before: int | None = None, limit: int = 50) -> list[Change]:
    """Changes, newest first; of one study if given; those older than the change `before`."""
    condition = "change_pk < %(before)s"
    if study_uid:
        condition += " AND change_pk IN (SELECT change_fk FROM changed_studies WHERE study_uid = %(study)s)"
    with connection.cursor(row_factory=class_row(Change)) as cursor:
        return cursor.execute(
            f"SELECT {_COLUMNS} FROM changes WHERE {condition} ORDER BY change_pk DESC LIMIT %(limit)s".encode(),
            {"study": study_uid, "before": before or 2**63 - 1, "limit": limit},
        ).fetchall()
