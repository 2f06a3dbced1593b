"""Storage commitments that peers asked of us: what was asked, what came of it, and what is to be reported (PS3.4 J)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from psycopg.rows import class_row

from storage import audit
from storage.database import Connection
from storage.errors import Conflict, NotFound

__all__ = [
    "CHANNEL", "Asked", "Commitment", "Counts", "Held", "ask", "claim", "counts", "fail", "forget",
    "held", "hold", "next_due_s", "page", "record", "reported", "retry",
]  # fmt: skip

CHANNEL = "sangloc_commitments"  # LISTEN here to be woken

_COLUMNS = (
    "commitment_pk, requester, transaction_uid, requester_address, called, sop_classes, sop_uids, failures, state,"
    " attempts, error, requested_at, checked_at, reported_at"
)


class Asked(NamedTuple):
    """One instance in a request."""

    sop_class: str
    sop_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """One request for storage commitment."""

    commitment_pk: int
    requester: str  # AE title
    transaction_uid: str
    requester_address: str
    called: str
    sop_classes: list[str]
    sop_uids: list[str]
    failures: list[int] | None  # Failure Reason of each (PS3.3 C.14.1.1), 0: committed; None: not checked yet
    state: str  # waiting | reported | dead
    attempts: int
    error: str
    requested_at: dt.datetime
    checked_at: dt.datetime | None
    reported_at: dt.datetime | None

    def asked(self) -> list[Asked]:
        """The instances, in the order of the request."""
        return [Asked(*pair) for pair in zip(self.sop_classes, self.sop_uids, strict=True)]


class Held(NamedTuple):
    """What the index says of an instance, to be compared with its object."""

    sop_uid: str
    sop_class: str
    object_key: str
    object_size: int  # bytes of the whole file
    dataset_offset: int
    sha256: bytes  # of the data set


class Counts(NamedTuple):
    """Commitments by state, and the age of the oldest that waits, in seconds."""

    waiting: int
    dead: int
    oldest_s: float


def ask(
    connection: Connection,
    requester: str,
    transaction_uid: str,
    instances: Sequence[Asked],
    *,
    requester_address: str,
    called: str,
    hold_s: float,
) -> int:
    """Keep a request and hold it for `hold_s` seconds; returns its `commitment_pk`.

    The same request again is checked and reported again: the peer has not heard of the first report.

    Raises:
        Conflict: this requester used the transaction UID for other instances.
    """
    classes, uids = [one.sop_class for one in instances], [one.sop_uid for one in instances]
    found = connection.execute(
        "INSERT INTO commitments AS c (requester, transaction_uid, requester_address, called, sop_classes, sop_uids,"
        " run_after) VALUES (%s, %s, %s, %s, %s, %s, now() + make_interval(secs => %s))"
        " ON CONFLICT (requester, transaction_uid) DO UPDATE SET state = 'waiting', failures = NULL, attempts = 0,"
        " error = '', run_after = excluded.run_after, requester_address = excluded.requester_address,"
        " called = excluded.called, requested_at = now()"
        " WHERE c.sop_classes = excluded.sop_classes AND c.sop_uids = excluded.sop_uids RETURNING commitment_pk",
        (requester, transaction_uid, requester_address, called, classes, uids, hold_s),
    ).fetchone()
    if found is None:
        raise Conflict("The transaction UID is in use for other instances.")
    return int(found[0])


def claim(connection: Connection, hold_s: float) -> Commitment | None:
    """Take the request that has waited longest for `hold_s` seconds; None when none is due."""
    with connection.cursor(row_factory=class_row(Commitment)) as cursor:
        return cursor.execute(
            "UPDATE commitments SET attempts = attempts + 1, run_after = now() + make_interval(secs => %s)"  # noqa: S608
            " WHERE commitment_pk = (SELECT commitment_pk FROM commitments WHERE state = 'waiting'"
            f" AND run_after <= now() ORDER BY run_after LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING {_COLUMNS}".encode(),
            (hold_s,),
        ).fetchone()


def hold(connection: Connection, commitment_pk: int, hold_s: float) -> None:
    """Nobody else takes the request for `hold_s` seconds from now; 0 hands it over."""
    connection.execute(
        "UPDATE commitments SET run_after = now() + make_interval(secs => %s) WHERE commitment_pk = %s",
        (hold_s, commitment_pk),
    )


def held(connection: Connection, sop_uids: Sequence[str]) -> dict[str, Held]:
    """The instances among these that are served or are rejection notes, by SOP Instance UID."""
    with connection.cursor() as cursor:
        found = cursor.execute(
            "SELECT i.sop_uid, i.sop_class, i.object_key, i.object_size, i.dataset_offset, i.sha256"
            " FROM instances AS i JOIN series AS e ON e.series_pk = i.series_fk"
            " JOIN studies AS s ON s.study_pk = i.study_fk"
            " WHERE i.sop_uid = ANY(%s) AND (NOT (i.hidden OR e.hidden OR s.hidden) OR EXISTS ("
            "SELECT FROM rejection_notes AS n WHERE n.sop_uid = i.sop_uid AND n.state = 'applied'))",
            (list(sop_uids),),
        ).fetchall()
    return {row[0]: Held(*row) for row in found}


def record(connection: Connection, commitment_pk: int, failures: Sequence[int]) -> None:
    """Write the Failure Reason of each instance, 0 for those that are committed."""
    connection.execute(
        "UPDATE commitments SET failures = %s, checked_at = now() WHERE commitment_pk = %s",
        (list(failures), commitment_pk),
    )


def reported(connection: Connection, commitment_pk: int) -> None:
    """The requester has confirmed the report."""
    connection.execute(
        "UPDATE commitments SET state = 'reported', reported_at = now(), error = '' WHERE commitment_pk = %s",
        (commitment_pk,),
    )


def fail(connection: Connection, commitment_pk: int, error: str, *, again_s: float, give_up_s: float) -> bool:
    """Try again in `again_s` seconds, or never when the request is older than `give_up_s`; whether it was given up."""
    found = connection.execute(
        "UPDATE commitments SET error = %s, run_after = now() + make_interval(secs => %s),"
        " state = CASE WHEN requested_at < now() - make_interval(secs => %s) THEN 'dead' ELSE 'waiting' END"
        " WHERE commitment_pk = %s AND state = 'waiting' RETURNING state",
        (error.replace("\0", "")[:1000], again_s, give_up_s, commitment_pk),
    ).fetchone()
    return found is not None and found[0] == "dead"


def retry(connection: Connection, commitment_pk: int, actor: str) -> None:
    """Check and report again at once, whatever came of it before; raises `NotFound`. The caller notifies."""
    if not connection.execute(
        "UPDATE commitments SET state = 'waiting', failures = NULL, attempts = 0, run_after = now(),"
        " requested_at = now() WHERE commitment_pk = %s",
        (commitment_pk,),
    ).rowcount:
        raise NotFound(f"There is no storage commitment {commitment_pk}.")
    audit.add(connection, actor, "commitment.retried", detail={"commitment": commitment_pk})


def next_due_s(connection: Connection) -> float | None:
    """Seconds until a request is due (negative: it is late); None when none waits."""
    found = connection.execute(
        "SELECT extract(epoch FROM min(run_after) - now())::float FROM commitments WHERE state = 'waiting'"
    ).fetchone()
    assert found is not None
    return found[0] if found[0] is None else float(found[0])


def page(connection: Connection, *, before: int | None = None, limit: int = 50) -> list[Commitment]:
    """Requests, newest first; those older than `before` (a `commitment_pk`)."""
    with connection.cursor(row_factory=class_row(Commitment)) as cursor:
        return cursor.execute(
            f"SELECT {_COLUMNS} FROM commitments WHERE commitment_pk < %s"  # noqa: S608
            " ORDER BY commitment_pk DESC LIMIT %s".encode(),
            (before or 2**63 - 1, limit),
        ).fetchall()


def counts(connection: Connection) -> Counts:
    """How many requests wait and how many were given up."""
    found = connection.execute(
        "SELECT count(*) FILTER (WHERE state = 'waiting'), count(*) FILTER (WHERE state = 'dead'),"
        " coalesce(extract(epoch FROM now() - min(requested_at) FILTER (WHERE state = 'waiting')), 0)::float"
        " FROM commitments WHERE state <> 'reported'"
    ).fetchone()
    assert found is not None
    return Counts(*found)


def forget(connection: Connection, days: int) -> int:
    """Delete what was reported more than `days` ago; how many."""
    return connection.execute(
        "DELETE FROM commitments WHERE state = 'reported' AND reported_at < now() - make_interval(days => %s)", (days,)
    ).rowcount
