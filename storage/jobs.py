"""The queue of instances that a model shall look at: one row each, claimed in batches, leased, retried, dead-lettered.

A job is deleted when it is done. A worker that dies keeps its jobs until the lease ends; then they are claimed again.
"""

from __future__ import annotations

# ruff: noqa: S608 - the statements are put together from constants only
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from psycopg.rows import class_row

from storage import audit
from storage.database import Connection
from storage.errors import NotFound
from storage.findings import settle

__all__ = [
    "CHANNEL", "MAX_ATTEMPTS", "TAKEN", "Counts", "DeadJob", "Job", "claim", "counts", "dead", "done", "extend", "fail",
    "notify", "postpone", "retry",
]  # fmt: skip

CHANNEL = "sangloc_jobs"  # LISTEN here to be woken
MAX_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One instance to be scored, with what eligibility, decoding and triage need to know."""

    job_pk: int
    attempts: int  # this one included
    instance_pk: int
    study_pk: int
    study_uid: str
    sop_uid: str
    sop_class: str
    transfer_syntax: str
    object_key: str
    object_size: int
    dataset_offset: int
    sha256: bytes
    modality: str
    body_part: str
    view_position: str
    photometric: str
    rows: int | None
    columns: int | None
    bits_allocated: int | None
    frames: int | None
    patient_age: str
    site: str
    priority: str  # stat | urgent | routine
    arrived_at: dt.datetime  # of the study
    latest_due_at: dt.datetime
    reprocessing_pk: int | None = None  # job_pk is one of its items then, and no row of jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadJob:
    """A job that was given up, with the last error."""

    job_pk: int
    study_uid: str
    sop_uid: str
    attempts: int
    error: str
    created_at: dt.datetime


class Counts(NamedTuple):
    """Jobs by state."""

    waiting: int
    running: int
    dead: int


# The columns of a `Job`, of rows `claimed AS c` with job_pk, attempts and instance_fk.
TAKEN = """c.job_pk, c.attempts, i.instance_pk, i.study_fk AS study_pk, s.study_uid, i.sop_uid, i.sop_class,
    i.transfer_syntax, i.object_key, i.object_size, i.dataset_offset, i.sha256, e.modality, e.body_part,
    i.view_position, i.photometric, i.rows, i.columns, i.bits_allocated, i.frames, s.patient_age, w.site, w.priority,
    w.arrived_at, w.latest_due_at
FROM claimed AS c
CROSS JOIN LATERAL (SELECT * FROM instances WHERE instance_pk = c.instance_fk OFFSET 0) AS i
CROSS JOIN LATERAL (SELECT * FROM series WHERE series_pk = i.series_fk OFFSET 0) AS e
CROSS JOIN LATERAL (SELECT * FROM studies WHERE study_pk = i.study_fk OFFSET 0) AS s
CROSS JOIN LATERAL (SELECT * FROM worklist WHERE study_fk = i.study_fk OFFSET 0) AS w"""

_CLAIM = f"""
WITH expired AS MATERIALIZED (
    SELECT job_pk FROM jobs WHERE state = 'running' AND leased_until < now()
    ORDER BY leased_until LIMIT %(limit)s FOR UPDATE SKIP LOCKED
),
waiting AS MATERIALIZED (
    SELECT job_pk FROM jobs WHERE state = 'waiting' AND run_after <= now()
    ORDER BY urgency DESC, job_pk LIMIT %(limit)s - (SELECT count(*) FROM expired) FOR UPDATE SKIP LOCKED
),
claimed AS (
    UPDATE jobs SET state = 'running', worker = %(worker)s, attempts = attempts + 1,
        leased_until = now() + make_interval(secs => %(lease_s)s)
    WHERE job_pk = ANY(ARRAY(SELECT job_pk FROM expired UNION ALL SELECT job_pk FROM waiting))
    RETURNING job_pk, instance_fk, attempts, urgency
)
SELECT {TAKEN}
ORDER BY c.urgency DESC, c.job_pk"""


def claim(
    connection: Connection, worker: str, limit: int, lease_s: float, *, max_attempts: int = MAX_ATTEMPTS
) -> list[Job]:
    """Take up to `limit` jobs for `lease_s` seconds: first those whose lease ended, then by urgency, then the oldest.

    A job whose workers died `max_attempts` times is given up here instead of being handed out again.
    """
    with connection.cursor(row_factory=class_row(Job)) as cursor:
        values = {"worker": worker, "limit": limit, "lease_s": lease_s}
        found = cursor.execute(_CLAIM.encode(), values, prepare=False).fetchall()
    deadly = [job for job in found if job.attempts > max_attempts]
    for job in deadly:
        fail(connection, job.job_pk, "The worker ended while it read this image.", max_attempts=max_attempts)
    return [job for job in found if job not in deadly]


def extend(connection: Connection, job_pks: Sequence[int], lease_s: float) -> None:
    """Keep claimed jobs for `lease_s` seconds from now."""
    connection.execute(
        "UPDATE jobs SET leased_until = now() + make_interval(secs => %s) WHERE job_pk = ANY(%s) AND state = 'running'",
        (lease_s, list(job_pks)),
    )


def postpone(connection: Connection, job_pks: Sequence[int], wait_s: float) -> None:
    """Give claimed jobs back untried: nothing is there now that could do them."""
    connection.execute(
        "UPDATE jobs SET state = 'waiting', attempts = attempts - 1, run_after = now() + make_interval(secs => %s),"
        " leased_until = NULL, worker = NULL WHERE job_pk = ANY(%s) AND state = 'running'",
        (wait_s, list(job_pks)),
    )


def done(connection: Connection, job_pks: Sequence[int]) -> None:
    """Delete finished jobs, in the transaction that records their result."""
    connection.execute("DELETE FROM jobs WHERE job_pk = ANY(%s)", (list(job_pks),))


def fail(
    connection: Connection, job_pk: int, error: str, *, max_attempts: int = MAX_ATTEMPTS, backoff_s: float = 2.0
) -> bool:
    """Give a job back after an error: again later (the wait doubles each time), or dead after `max_attempts`.

    A dead job's reason is shown at its study. Returns whether it is dead.
    """
    error = error.replace("\0", "")[:2000]
    with connection.transaction():
        connection.execute("SELECT heed_changes()")
        found = connection.execute(
            "UPDATE jobs SET state = CASE WHEN attempts >= %(max)s THEN 'dead' ELSE 'waiting' END,"
            " run_after = now() + make_interval(secs => %(backoff)s * 2 ^ LEAST(attempts - 1, 10)),"
            " error = %(error)s, leased_until = NULL, worker = NULL"
            " WHERE job_pk = %(job)s AND state <> 'dead' RETURNING state, instance_fk",
            {"max": max_attempts, "backoff": backoff_s, "error": error, "job": job_pk},
        ).fetchone()
        if found is None or found[0] != "dead":
            return False
        _set_triage(connection, found[1], "failed", error, actor="sangloc", action="job.dead")
        return True


def retry(connection: Connection, job_pk: int, actor: str = "sangloc") -> None:
    """Let a dead job run again from its first attempt; raises `NotFound`. The caller notifies."""
    with connection.transaction():
        connection.execute("SELECT heed_changes()")
        found = connection.execute(
            "UPDATE jobs SET state = 'waiting', attempts = 0, run_after = now(), error = ''"
            " WHERE job_pk = %s AND state = 'dead' RETURNING instance_fk",
            (job_pk,),
        ).fetchone()
        if found is None:
            raise NotFound(f"There is no dead job {job_pk}.")
        _set_triage(connection, found[0], "waiting", "", actor=actor, action="job.retried")


def notify(connection: Connection) -> None:
    """Wake the workers. Outside of the ingest transaction: a NOTIFY inside makes commits wait for each other."""
    connection.execute("SELECT pg_notify(%s, '')", (CHANNEL,))


def dead(connection: Connection, *, after: int = 0, limit: int = 50) -> list[DeadJob]:
    """Jobs that were given up, oldest first; those behind `after` (a `job_pk`)."""
    with connection.cursor(row_factory=class_row(DeadJob)) as cursor:
        return cursor.execute(
            "SELECT j.job_pk, s.study_uid, i.sop_uid, j.attempts, j.error, j.created_at"
            " FROM jobs AS j JOIN instances AS i ON i.instance_pk = j.instance_fk"
            " JOIN studies AS s ON s.study_pk = i.study_fk"
            " WHERE j.state = 'dead' AND NOT i.hidden AND j.job_pk > %s ORDER BY j.job_pk LIMIT %s",
            (after, limit),
        ).fetchall()


def counts(connection: Connection) -> Counts:
    """How many jobs there are, by state."""
    found: dict[str, int] = dict(connection.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())
    return Counts(found.get("waiting", 0), found.get("running", 0), found.get("dead", 0))


def _set_triage(connection: Connection, instance_pk: int, triage: str, reason: str, *, actor: str, action: str) -> None:
    found = connection.execute(
        "UPDATE instances SET triage = %s, triage_reason = %s WHERE instance_pk = %s RETURNING study_fk, sop_uid,"
        " (SELECT study_uid FROM studies WHERE study_pk = study_fk)",
        (triage, reason, instance_pk),
    ).fetchone()
    assert found is not None, "a job's instance exists: ON DELETE CASCADE"
    study_pk, sop_uid, study_uid = found
    settle(connection, study_pk)
    audit.add(connection, actor, action, study_uid, {"sop_uid": sop_uid, "reason": reason})
