"""HL7 messages that were answered: who sent them, what they were and what came of them; never what they said."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.rows import class_row

from storage.database import Connection
from storage.matching import comparable

__all__ = ["Incoming", "Kept", "accepted_before", "note", "page", "settle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A message as it came; `sha256` is of its bytes, which are not kept."""

    sender: str
    control_id: str
    kind: str
    sha256: bytes
    size: int
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A message as it was answered."""

    message_pk: int
    sender: str
    control_id: str
    kind: str
    sha256: bytes
    size: int
    address: str
    code: str
    reason: str
    orders: list[int]
    answers: int
    received_at: dt.datetime


def accepted_before(connection: Connection, message: Incoming) -> str | None:
    """How this very message was answered when it was accepted, None where it was not; counts the repetition."""
    found = connection.execute(
        "UPDATE hl7_messages SET answers = answers + 1 WHERE sender = %s AND control_id = %s AND sha256 = %s"
        " AND code = 'AA' RETURNING reason",
        (comparable(message.sender), comparable(message.control_id), message.sha256),
    ).fetchone()
    return None if found is None else str(found[0])


def note(connection: Connection, message: Incoming, code: str, reason: str, orders: Sequence[int] = ()) -> int:
    """Keep what a message was answered, in place of an earlier failure of the same one; its number."""
    found = connection.execute(
        "INSERT INTO hl7_messages (sender, control_id, kind, sha256, size, address, code, reason, orders)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (sender, control_id, sha256) DO UPDATE SET"
        " code = excluded.code, reason = excluded.reason, orders = excluded.orders, address = excluded.address,"
        " answers = hl7_messages.answers + 1, received_at = excluded.received_at RETURNING message_pk",
        (comparable(message.sender), comparable(message.control_id), comparable(message.kind), message.sha256,
         message.size, message.address, code, reason, list(orders)),
    ).fetchone()  # fmt: skip
    assert found is not None
    return int(found[0])


def settle(connection: Connection, message_pk: int, reason: str, orders: Sequence[int]) -> None:
    """A message that was noted before its work was accepted: AA."""
    connection.execute(
        "UPDATE hl7_messages SET code = 'AA', reason = %s, orders = %s WHERE message_pk = %s",
        (reason, list(orders), message_pk),
    )


def page(connection: Connection, *, code: str | None = None, before: int | None = None, limit: int = 50) -> list[Kept]:
    """Messages, the newest first; those that were answered with `code` if given."""
    with connection.cursor(row_factory=class_row(Kept)) as cursor:
        return cursor.execute(
            "SELECT message_pk, sender, control_id, kind, sha256, size, address, code, reason, orders, answers,"
            " received_at FROM hl7_messages WHERE (%(code)s::text IS NULL OR code = %(code)s)"
            " AND message_pk < %(before)s ORDER BY message_pk DESC LIMIT %(limit)s",
            {"code": code, "before": before or 2**63 - 1, "limit": limit},
        ).fetchall()
