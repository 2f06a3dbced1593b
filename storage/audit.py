"""Who did what, to which study: written once, never changed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from storage.database import Connection

__all__ = ["Entry", "add", "page"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that a person, a sender or a model did."""

    audit_pk: int
    at: dt.datetime
    actor: str
    action: str
    study_uid: str
    detail: dict[str, Any]


def add(
    connection: Connection, actor: str, action: str, study_uid: str = "", detail: Mapping[str, Any] | None = None
) -> None:
    """Write an entry in the caller's transaction, so that it stands exactly when what it tells of does."""
    connection.execute(
        "INSERT INTO audit (actor, action, study_uid, detail) VALUES (%s, %s, %s, %s)",
        (actor, action, study_uid, Jsonb(dict(detail or {}))),
    )


def page(connection: Connection, *, study_uid: str = "", before: int | None = None, limit: int = 100) -> list[Entry]:
    """Entries, newest first; of one study if given; those older than the entry `before`."""
    with connection.cursor(row_factory=class_row(Entry)) as cursor:
        return cursor.execute(
            "SELECT audit_pk, at, actor, action, study_uid, detail FROM audit"
            " WHERE (%(study)s = '' OR study_uid = %(study)s) AND audit_pk < %(before)s"
            " ORDER BY audit_pk DESC LIMIT %(limit)s",
            {"study": study_uid, "before": before or 2**63 - 1, "limit": limit},
        ).fetchall()
