"""The queues of destinations: what waits, what came of it, and what a person may do about it.

A queue row is never deleted while its instance is there: it is why nothing is sent twice. `storage.routing` fills the
queues. Where commitment is asked for, a row goes waiting, sent, asked, committed; elsewhere waiting, done.
"""

# ruff: noqa: S608 - the statements are put together from constants only

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, LiteralString

from psycopg.rows import class_row

from storage import audit, destinations
from storage.commitment import Asked
from storage.database import Connection
from storage.destinations import Destination
from storage.errors import NotFound

__all__ = [
    "Entry", "State", "Waiting", "ask", "ask_again", "broke", "cancel", "done", "due", "enqueue_study", "entries",
    "lease", "line_failed", "lost_interest", "pending", "refused", "release", "retry", "sent", "take_report", "unask",
    "waiting", "waiting_studies",
]  # fmt: skip

State = Literal["waiting", "done", "dead", "cancelled", "sent", "asked", "committed"]

_MAX_ERROR = 1000


@dataclass(frozen=True, slots=True)
class Waiting:
    """One instance in a queue."""

    queue_pk: int
    instance_pk: int
    sop_class: str
    transfer_syntax: str
    sop_uid: str
    object_size: int  # bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a queue, for a person."""

    number: int
    study_uid: str
    sop_uid: str  # '' for a notice, which is about a study
    state: State
    attempts: int
    error: str
    created_at: dt.datetime
    run_after: dt.datetime | None  # None: at once


# ---- whose turn it is


def due(connection: Connection) -> list[Destination]:
    """Destinations that have something to do now and are not held back, paused or closed hours apart."""
    found = connection.execute(
        "SELECT destination_pk FROM forwarding_destinations AS d WHERE NOT paused AND retry_at <= now() AND ("
        "EXISTS (SELECT FROM forwarding_queue WHERE destination_fk = d.destination_pk AND state = 'waiting'"
        " AND run_after <= now()) OR EXISTS (SELECT FROM availability_notices WHERE destination_fk = d.destination_pk"
        " AND state = 'waiting' AND run_after <= now()) OR (d.commitment AND EXISTS (SELECT FROM forwarding_queue"
        " WHERE destination_fk = d.destination_pk AND state = 'sent')))"
    )
    chosen = {pk for (pk,) in found}
    return [one for one in destinations.all_destinations(connection) if one.destination_pk in chosen]


def pending(connection: Connection) -> bool:
    """Whether anything waits anywhere, now or later."""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM forwarding_destinations AS d WHERE NOT paused AND ("
        "EXISTS (SELECT FROM forwarding_queue WHERE destination_fk = d.destination_pk AND state = 'waiting')"
        " OR (d.commitment AND EXISTS (SELECT FROM forwarding_queue WHERE destination_fk = d.destination_pk"
        " AND state = 'sent'))"
        " OR EXISTS (SELECT FROM availability_notices WHERE destination_fk = d.destination_pk AND state = 'waiting')))"
    ).fetchone()
    return row == (True,)


def lease(connection: Connection, destination_pk: int, owner: str, lease_s: float) -> bool:
    """Whether the owner works for the destination for the next `lease_s` seconds: one process at a time does."""
    return bool(
        connection.execute(
            "UPDATE forwarding_destinations SET leased_by = %(owner)s, leased_until = now() + make_interval(secs =>"
            " %(lease_s)s) WHERE destination_pk = %(pk)s AND (leased_until < now() OR leased_by = %(owner)s)",
            {"owner": owner, "lease_s": lease_s, "pk": destination_pk},
        ).rowcount
    )


def release(connection: Connection, destination_pk: int, owner: str) -> None:
    """The owner is done with the destination for now."""
    connection.execute(
        "UPDATE forwarding_destinations SET leased_until = '-infinity', leased_by = ''"
        " WHERE destination_pk = %s AND leased_by = %s",
        (destination_pk, owner),
    )


def waiting(connection: Connection, destination_pk: int, limit: int) -> list[Waiting]:
    """What is to be sent next: by urgency, then in the order of arrival. Instances that are hidden are left out."""
    with connection.cursor(row_factory=class_row(Waiting)) as cursor:
        return cursor.execute(
            "SELECT q.queue_pk, i.instance_pk, i.sop_class, i.transfer_syntax, i.sop_uid, i.object_size"
            " FROM (SELECT queue_pk, instance_fk, urgency FROM forwarding_queue WHERE destination_fk = %s"
            " AND state = 'waiting' AND run_after <= now() ORDER BY urgency DESC, queue_pk LIMIT %s) AS q"
            " CROSS JOIN LATERAL (SELECT * FROM instances WHERE instance_pk = q.instance_fk OFFSET 0) AS i"
            " ORDER BY q.urgency DESC, q.queue_pk",
            (destination_pk, limit),
        ).fetchall()


def waiting_studies(connection: Connection, destination_pk: int, limit: int) -> list[tuple[int, str, dt.datetime]]:
    """Queue number, Study Instance UID and `changed_at` of studies that have settled and are to be announced."""
    return connection.execute(
        "SELECT q.queue_pk, s.study_uid, q.changed_at FROM availability_notices AS q"
        " JOIN studies AS s ON s.study_pk = q.study_fk"
        " WHERE q.destination_fk = %s AND q.state = 'waiting' AND q.run_after <= now() ORDER BY q.run_after LIMIT %s",
        (destination_pk, limit),
    ).fetchall()


# ---- what came of it


def done(
    connection: Connection,
    destination: Destination,
    queue_pks: Sequence[int],
    sent_bytes: int = 0,
    *,
    seen: dt.datetime | None = None,
) -> None:
    """These were taken by the destination, of `sent_bytes` bytes together. Call it in a transaction.

    With `seen` only while `changed_at` is that: what has changed since is to be told again.
    """
    count = connection.execute(
        "UPDATE " + _table(destination) + " SET state = %s, error = '', changed_at = now()"
        " WHERE queue_pk = ANY(%s) AND state = 'waiting' AND changed_at = coalesce(%s, changed_at)",
        ("sent" if destination.commitment else "done", list(queue_pks), seen),
    ).rowcount
    connection.execute(
        "UPDATE forwarding_destinations SET sent_instances = sent_instances + %s, sent_bytes = sent_bytes + %s,"
        " last_success_at = now(), failures = 0 WHERE destination_pk = %s",
        (count, sent_bytes, destination.destination_pk),
    )


def refused(connection: Connection, destination: Destination, queue_pk: int, error: str) -> None:
    """The destination does not take this one: later again (5 s, doubling up to an hour), or dead after all attempts."""
    connection.execute(
        "UPDATE " + _table(destination) + " SET attempts = attempts + 1, error = %s, changed_at = now(),"
        " run_after = now() + make_interval(secs => least(3600, 5 * 2 ^ least(attempts, 12))),"
        " state = CASE WHEN attempts + 1 >= %s THEN 'dead' ELSE 'waiting' END"
        " WHERE queue_pk = %s AND state = 'waiting'",
        (_text(error), destination.max_attempts, queue_pk),
    )


def broke(connection: Connection, destination: Destination, queue_pk: int, error: str) -> None:
    """The line broke while this one was on it. It waits; it is an attempt only if others got through since the last."""
    connection.execute(
        "UPDATE forwarding_queue AS q SET error = %(error)s, changed_at = now(), attempts = q.attempts + blamed,"
        " run_after = now() + make_interval(secs => 5 * blamed * 2 ^ least(q.attempts, 9)),"
        " state = CASE WHEN q.attempts + blamed >= %(most)s THEN 'dead' ELSE 'waiting' END"
        " FROM (SELECT coalesce((d.last_success_at > w.changed_at)::int, 0) AS blamed FROM forwarding_queue AS w"
        " JOIN forwarding_destinations AS d ON d.destination_pk = w.destination_fk WHERE w.queue_pk = %(pk)s) AS b"
        " WHERE q.queue_pk = %(pk)s AND q.state = 'waiting'",
        {"error": _text(error), "most": destination.max_attempts, "pk": queue_pk},
    )


def lost_interest(connection: Connection, queue_pks: Sequence[int], why: str) -> None:
    """These are not to be sent any more."""
    connection.execute(
        "UPDATE forwarding_queue SET state = 'cancelled', error = %s, changed_at = now()"
        " WHERE queue_pk = ANY(%s) AND state = 'waiting'",
        (_text(why), list(queue_pks)),
    )


def line_failed(
    connection: Connection, destination_pk: int, error: str, back_off_s: tuple[float, float] = (5.0, 900.0)
) -> float:
    """Leave the destination alone for a while, longer each time; returns seconds."""
    shortest, longest = back_off_s
    row = connection.execute(
        "UPDATE forwarding_destinations SET failures = failures + 1, last_error = %s, last_error_at = now(),"
        " retry_at = now() + make_interval(secs => least(%s, %s * 2 ^ least(failures, 20))),"
        " leased_until = '-infinity', leased_by = '' WHERE destination_pk = %s"
        " RETURNING extract(epoch FROM retry_at - now())::float",
        (_text(error), longest, shortest, destination_pk),
    ).fetchone()
    return float(row[0]) if row is not None else longest


# ---- commitment by the destination


def sent(connection: Connection, destination_pk: int, limit: int) -> list[tuple[int, Asked]]:
    """What was sent and is still to be committed there."""
    found = connection.execute(
        "SELECT q.queue_pk, i.sop_class, i.sop_uid FROM forwarding_queue AS q"
        " JOIN instances AS i ON i.instance_pk = q.instance_fk"
        " WHERE q.destination_fk = %s AND q.state = 'sent' ORDER BY q.urgency DESC, q.queue_pk LIMIT %s",
        (destination_pk, limit),
    )
    return [(queue_pk, Asked(sop_class, sop_uid)) for queue_pk, sop_class, sop_uid in found]


def ask(connection: Connection, queue_pks: Sequence[int], transaction_uid: str) -> None:
    """The destination is asked for these in this transaction; said before it is asked."""
    connection.execute(
        "UPDATE forwarding_queue SET state = 'asked', transaction_uid = %s, changed_at = now()"
        " WHERE queue_pk = ANY(%s) AND state = 'sent'",
        (transaction_uid, list(queue_pks)),
    )


def ask_again(connection: Connection, after_s: float) -> None:
    """What was asked for `after_s` seconds ago without a report is to be asked for once more."""
    connection.execute(
        "UPDATE forwarding_queue AS q SET state = 'sent', changed_at = now() FROM forwarding_destinations AS d"
        " WHERE q.destination_fk = d.destination_pk AND d.commitment AND q.state = 'asked'"
        " AND q.changed_at <= now() - make_interval(secs => %s)",
        (after_s,),
    )


def unask(connection: Connection, transaction_uid: str) -> None:
    """The destination has not taken the request: as if it had not been made."""
    connection.execute(
        "UPDATE forwarding_queue SET state = 'sent', changed_at = now() WHERE transaction_uid = %s AND state = 'asked'",
        (transaction_uid,),
    )


def take_report(
    connection: Connection, transaction_uid: str, committed: Sequence[Asked], failed: Sequence[tuple[Asked, int]]
) -> bool:
    """What a destination says of a transaction; what it has not committed is sent again. False: nobody asked for it."""
    known = connection.execute(
        "UPDATE forwarding_queue AS q SET state = 'committed', error = '', changed_at = now() FROM instances AS i"
        " WHERE i.instance_pk = q.instance_fk AND q.transaction_uid = %s AND q.state = 'asked' AND i.sop_uid = ANY(%s)",
        (transaction_uid, [one.sop_uid for one in committed]),
    ).rowcount
    for one, reason in failed:
        known += connection.execute(
            "UPDATE forwarding_queue AS q SET attempts = q.attempts + 1, error = %s, changed_at = now(),"
            " run_after = now(), state = CASE WHEN q.attempts + 1 >= d.max_attempts THEN 'dead' ELSE 'waiting' END"
            " FROM instances AS i, forwarding_destinations AS d WHERE i.instance_pk = q.instance_fk"
            " AND d.destination_pk = q.destination_fk AND q.transaction_uid = %s AND q.state = 'asked'"
            " AND i.sop_uid = %s",
            (f"The destination did not commit it: failure reason {reason:04X}.", transaction_uid, one.sop_uid),
        ).rowcount
    return known > 0


# ---- what a person does


def entries(
    connection: Connection, name: str, state: State = "waiting", *, after: int = 0, limit: int = 50
) -> list[Entry]:
    """Rows of a queue in one state, oldest first, those behind the number `after`; raises `NotFound`."""
    destination = destinations.by_name(connection, name)
    about: LiteralString = (
        "s.study_uid, '' AS sop_uid FROM availability_notices AS q JOIN studies AS s ON s.study_pk = q.study_fk"
        if destination.method == "ian"
        else "s.study_uid, i.sop_uid FROM forwarding_queue AS q JOIN instances AS i ON i.instance_pk = q.instance_fk"
        " JOIN studies AS s ON s.study_pk = i.study_fk"
    )
    with connection.cursor(row_factory=class_row(Entry)) as cursor:
        return cursor.execute(
            "SELECT q.queue_pk AS number, q.state, q.attempts, q.error, q.created_at,"
            " nullif(q.run_after, '-infinity') AS run_after, " + about + " WHERE q.destination_fk = %s"
            " AND q.state = %s AND q.queue_pk > %s ORDER BY q.queue_pk LIMIT %s",
            (destination.destination_pk, state, after, limit),
        ).fetchall()


def retry(connection: Connection, name: str, actor: str, number: int | None = None) -> int:
    """Try dead (or one waiting) entries again at once, from their first attempt; how many. Raises `NotFound`.

    Args:
        connection: in a transaction.
        name: the destination.
        actor: for the audit log.
        number: of one entry; all dead ones without it.
    """
    change: LiteralString = "state = 'waiting', attempts = 0, run_after = now(), error = ''"
    return _change(connection, name, number, change, (actor, "forwarding.retried"))


def cancel(connection: Connection, name: str, actor: str, number: int | None = None) -> int:
    """Give dead (or one waiting) entries up for good; arguments as in `retry`."""
    return _change(connection, name, number, "state = 'cancelled'", (actor, "forwarding.cancelled"))


def _change(
    connection: Connection, name: str, number: int | None, change: LiteralString, audited: tuple[str, str]
) -> int:
    destination = destinations.by_name(connection, name)
    count = connection.execute(
        "UPDATE "
        + _table(destination)
        + " SET changed_at = now(), "
        + change
        + " WHERE destination_fk = %(destination)s"
        " AND ((%(number)s::bigint IS NULL AND state = 'dead')"
        " OR (queue_pk = %(number)s AND state IN ('waiting', 'dead')))",
        {"destination": destination.destination_pk, "number": number},
    ).rowcount
    if number is not None and not count:
        raise NotFound(f"The queue of {name} has no waiting or dead entry {number}.")
    audit.add(connection, *audited, detail={"destination": name, "entries": count, "number": number})
    return count


def enqueue_study(connection: Connection, name: str, study_uid: str, actor: str) -> int:
    """Send a study there, again if it was sent before, whatever the rules say; how many instances (or notices).

    Raises:
        NotFound: there is no such destination, or no such study.
    """
    destination = destinations.by_name(connection, name)
    row = connection.execute(
        "SELECT study_pk FROM studies WHERE study_uid = %s AND NOT hidden", (study_uid,)
    ).fetchone()
    if row is None:
        raise NotFound(f"There is no study {study_uid}.")
    count = connection.execute(
        _ENQUEUE_NOTICE if destination.method == "ian" else _ENQUEUE, (destination.destination_pk, row[0])
    ).rowcount
    audit.add(connection, actor, "forwarding.queued", study_uid, {"destination": name, "instances": count})
    return count


_AGAIN: LiteralString = (
    " DO UPDATE SET state = 'waiting', attempts = 0, run_after = excluded.run_after, error = '', changed_at = now()"
)
_ENQUEUE: LiteralString = (
    "INSERT INTO forwarding_queue (destination_fk, instance_fk, run_after)"
    " SELECT %s, instance_pk, now() FROM series AS e JOIN instances AS i ON i.series_fk = e.series_pk"
    " WHERE e.study_fk = %s AND NOT (e.hidden OR i.hidden) ORDER BY instance_pk"
    " ON CONFLICT (instance_fk, destination_fk)" + _AGAIN
)
_ENQUEUE_NOTICE: LiteralString = (
    "INSERT INTO availability_notices (destination_fk, study_fk, run_after) VALUES (%s, %s, now())"
    " ON CONFLICT (study_fk, destination_fk)" + _AGAIN
)


def _table(destination: Destination) -> LiteralString:
    return "availability_notices" if destination.method == "ian" else "forwarding_queue"


def _text(error: str) -> str:
    return error.replace("\0", "")[:_MAX_ERROR]
