"""Who hears of which workitem, and the event reports that wait for them (PS3.4 CC.2.3, CC.2.4)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from storage.database import Connection

__all__ = [
    "ALL",
    "FILTERED",
    "Subscription",
    "forget_old",
    "of_workitem",
    "report",
    "sent",
    "subscribe",
    "suspend",
    "unsubscribe",
    "waiting",
]

ALL: Final = "1.2.840.10008.5.1.4.34.5"  # UPS Global Subscription SOP Instance (PS3.4 CC.2.3.3)
FILTERED: Final = "1.2.840.10008.5.1.4.34.5.1"  # UPS Filtered Global Subscription SOP Instance
_MOST_EVENTS = 10_000  # that wait for one subscriber; the oldest are forgotten
_KEPT = dt.timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """One subscriber's interest in a workitem, in all, or in those that a filter matches."""

    subscriber: str
    workitem_uid: str
    filter: list[list[str]]
    deletion_lock: bool
    muted: bool
    suspended_at: dt.datetime | None


def subscribe(
    connection: Connection, subscriber: str, uid: str, *, deletion_lock: bool, wanted: Sequence[tuple[str, str]] = ()
) -> None:
    """Begin, or begin anew with other wishes."""
    connection.execute(
        "INSERT INTO workitem_subscriptions (subscriber, workitem_uid, filter, deletion_lock) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (subscriber, workitem_uid) DO UPDATE SET filter = excluded.filter, muted = false,"
        " deletion_lock = excluded.deletion_lock, suspended_at = NULL",
        (subscriber, uid, Jsonb([list(one) for one in wanted]), deletion_lock),
    )
    if uid == ALL:  # what was left out before is meant again
        connection.execute("DELETE FROM workitem_subscriptions WHERE subscriber = %s AND muted", (subscriber,))


def unsubscribe(connection: Connection, subscriber: str, uid: str) -> bool:
    """End it; from all workitems: each of the subscriber's ends. Whether there was anything to end."""
    if uid in (ALL, FILTERED):
        found = connection.execute(
            "DELETE FROM workitem_subscriptions WHERE subscriber = %s AND (%s = workitem_uid OR %s = %s)",
            (subscriber, uid, uid, ALL),
        )
        return found.rowcount > 0
    wide = connection.execute(
        "SELECT 1 FROM workitem_subscriptions WHERE subscriber = %s AND workitem_uid = ANY(%s)",
        (subscriber, [ALL, FILTERED]),
    ).fetchone()
    if wide is None:
        statement = "DELETE FROM workitem_subscriptions WHERE subscriber = %s AND workitem_uid = %s"
        return connection.execute(statement, (subscriber, uid)).rowcount > 0
    connection.execute(
        "INSERT INTO workitem_subscriptions (subscriber, workitem_uid, muted) VALUES (%s, %s, true)"
        " ON CONFLICT (subscriber, workitem_uid) DO UPDATE SET muted = true",
        (subscriber, uid),
    )
    return True


def suspend(connection: Connection, subscriber: str, uid: str) -> bool:
    """Take no workitems on that are made from now on; whether there was such a subscription."""
    found = connection.execute(
        "UPDATE workitem_subscriptions SET suspended_at = coalesce(suspended_at, now())"
        " WHERE subscriber = %s AND workitem_uid = %s",
        (subscriber, uid),
    )
    return found.rowcount > 0


def of_workitem(connection: Connection, uid: str) -> list[Subscription]:
    """Every subscription that may concern a workitem, those to it alone first."""
    with connection.cursor(row_factory=class_row(Subscription)) as cursor:
        return cursor.execute(
            "SELECT subscriber, workitem_uid, filter, deletion_lock, muted, suspended_at FROM workitem_subscriptions"
            " WHERE workitem_uid = ANY(%s) ORDER BY workitem_uid <> %s, subscriber",
            ([uid, ALL, FILTERED], uid),
        ).fetchall()


def report(connection: Connection, subscriber: str, event: Mapping[str, Any]) -> None:
    """Keep an event report until its subscriber has it."""
    connection.execute(
        "INSERT INTO workitem_events (subscriber, report) VALUES (%s, %s)", (subscriber, Jsonb(dict(event)))
    )


def waiting(connection: Connection, subscriber: str, *, limit: int = 100) -> list[tuple[int, dict[str, Any]]]:
    """Event reports of one subscriber with their numbers, the oldest first."""
    return connection.execute(
        "SELECT event_pk, report FROM workitem_events WHERE subscriber = %s ORDER BY event_pk LIMIT %s",
        (subscriber, limit),
    ).fetchall()


def sent(connection: Connection, numbers: Sequence[int]) -> None:
    """Forget event reports that have arrived."""
    connection.execute("DELETE FROM workitem_events WHERE event_pk = ANY(%s)", (list(numbers),))


def forget_old(connection: Connection) -> int:
    """Forget event reports that nobody came for; how many."""
    return connection.execute(
        "DELETE FROM workitem_events WHERE created_at < now() - %s OR event_pk IN (SELECT event_pk FROM (SELECT"
        " event_pk, row_number() OVER (PARTITION BY subscriber ORDER BY event_pk DESC) AS place FROM workitem_events)"
        " AS placed WHERE place > %s)",
        (_KEPT, _MOST_EVENTS),
    ).rowcount
