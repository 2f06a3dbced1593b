"""What came in and could not be served, for a person to look at: conflicts and data that cannot be indexed."""

# ruff: noqa: S608 - the statements are put together from constants only

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Literal

from psycopg.rows import class_row

from storage import audit
from storage.database import Connection
from storage.errors import NotFound
from storage.received import Received

__all__ = ["Kind", "SetAside", "add", "add_conflict", "get", "page", "resolve"]

Kind = Literal["conflict", "invalid"]

_COLUMNS = (
    "set_aside_pk, kind, reason, sop_uid, object_key, object_size, dataset_offset, sha256, source_aet, source_address,"
    " received_at, resolved_at"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """One object that is kept but not served."""

    set_aside_pk: int
    kind: Kind
    reason: str
    sop_uid: str
    object_key: str
    object_size: int
    dataset_offset: int
    sha256: bytes
    source_aet: str
    source_address: str
    received_at: dt.datetime
    resolved_at: dt.datetime | None


def add(
    connection: Connection,
    *,
    kind: Kind,
    reason: str,
    sop_uid: str,
    object_key: str,
    object_size: int,
    dataset_offset: int,
    sha256: bytes,
    source_aet: str,
    source_address: str,
) -> bool:
    """Keep an object aside; False if the same bytes are kept as another object, so that the caller deletes this one."""
    values = (kind, reason, _text(sop_uid), object_key, object_size, dataset_offset, sha256, _text(source_aet))
    connection.execute(
        "INSERT INTO set_aside (kind, reason, sop_uid, object_key, object_size, dataset_offset, sha256, source_aet,"
        " source_address) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (kind, sop_uid, sha256) DO NOTHING",
        (*values, source_address),
    )
    kept = connection.execute(
        "SELECT object_key FROM set_aside WHERE kind = %s AND sop_uid = %s AND sha256 = %s", (kind, values[2], sha256)
    ).fetchone()
    return kept == (object_key,)


def add_conflict(connection: Connection, received: Received) -> bool:
    """Keep other bytes under a known UID aside, with an audit entry; see `add`."""
    with connection.transaction():
        kept = add(
            connection,
            kind="conflict",
            reason="An instance with this UID and other content was received before; that one is served.",
            sop_uid=received.header.sop_uid,
            object_key=received.object_key,
            object_size=received.object_size,
            dataset_offset=received.dataset_offset,
            sha256=received.sha256,
            source_aet=received.source_aet,
            source_address=received.source_address,
        )
        if kept:
            detail = {"sop_uid": received.header.sop_uid, "source_address": received.source_address}
            audit.add(connection, received.source_aet, "instance.conflict", received.header.study_uid, detail)
    return kept


def page(
    connection: Connection,
    kind: Kind | None = None,
    *,
    resolved: bool = False,
    before: int | None = None,
    limit: int = 50,
) -> list[SetAside]:
    """Objects set aside, newest first; those older than `before` (a `set_aside_pk`)."""
    with connection.cursor(row_factory=class_row(SetAside)) as cursor:
        return cursor.execute(
            f"SELECT {_COLUMNS} FROM set_aside WHERE (%(kind)s::text IS NULL OR kind = %(kind)s)"
            " AND (resolved_at IS NOT NULL) = %(resolved)s AND set_aside_pk < %(before)s"
            " ORDER BY set_aside_pk DESC LIMIT %(limit)s",
            {"kind": kind, "resolved": resolved, "before": before or 2**63 - 1, "limit": limit},
        ).fetchall()


def get(connection: Connection, set_aside_pk: int) -> SetAside:
    """One object set aside; raises `NotFound`."""
    with connection.cursor(row_factory=class_row(SetAside)) as cursor:
        found = cursor.execute(f"SELECT {_COLUMNS} FROM set_aside WHERE set_aside_pk = %s", (set_aside_pk,)).fetchone()
    if found is None:
        raise NotFound(f"Nothing is set aside under the number {set_aside_pk}.")
    return found


def resolve(connection: Connection, set_aside_pk: int, actor: str) -> None:
    """Note that a person has dealt with it; the object stays. Raises `NotFound`."""
    found = connection.execute(
        "UPDATE set_aside SET resolved_at = coalesce(resolved_at, now()) WHERE set_aside_pk = %s RETURNING sop_uid",
        (set_aside_pk,),
    ).fetchone()
    if found is None:
        raise NotFound(f"Nothing is set aside under the number {set_aside_pk}.")
    audit.add(connection, actor, "set_aside.resolved", "", {"set_aside_pk": set_aside_pk, "sop_uid": found[0]})


def _text(value: str) -> str:
    """Text from the wire as PostgreSQL can hold and index it."""
    return value.replace("\0", "").encode(errors="backslashreplace").decode()[:256]
