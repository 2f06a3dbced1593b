"""The images of a reprocessing on their way through the workers: walked over, handed out, recorded.

The row of the reprocessing is locked while images are handed out, so one worker at a time decides on its cursor, its
rate and its end. Recording locks items first and that row last; handing out skips items that are locked.
"""

from __future__ import annotations

# ruff: noqa: S608 - the statements are put together from constants only
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from psycopg.rows import class_row, dict_row

from storage import findings
from storage.database import Connection
from storage.errors import Conflict
from storage.findings import Score
from storage.jobs import MAX_ATTEMPTS, TAKEN, Job
from storage.reprocessing import CHOSEN, ModelRef, chosen_values, pause

__all__ = ["Claimed", "Outcome", "Upcoming", "claim", "extend", "record", "stop_for", "upcoming"]

_WINDOW_KEYS = 2_000  # instances looked at in one transaction
_BUSY_S = 0.5  # a look at whether the live queue is empty
_PACE_S = 10.0  # the pace is that of about so many seconds
_NOBODY = "The worker ended while it read this image."


class Upcoming(NamedTuple):
    """The reprocessing whose turn it is."""

    number: int
    model: ModelRef


class Claimed(NamedTuple):
    """Images to be scored; none: look again after `wait_s`."""

    jobs: list[Job]
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of images of one reprocessing; each stands in one of the lists."""

    scored: Sequence[tuple[Job, Score]] = ()
    refused: Sequence[tuple[Job, str]] = ()  # trying again will not help
    failed: Sequence[tuple[Job, str]] = ()


_LIVE = """
SELECT EXISTS (SELECT FROM jobs WHERE state = 'waiting' AND run_after <= now())
    OR EXISTS (SELECT FROM jobs WHERE state = 'running' AND leased_until > now())"""

_WALK = f"""
WITH window_of AS MATERIALIZED (
    SELECT i.instance_pk FROM instances AS i {CHOSEN}
        AND i.instance_pk > %(walked)s AND i.instance_pk <= %(upto)s ORDER BY i.instance_pk
),
made AS (
    INSERT INTO reprocessing_items (reprocessing_fk, instance_fk) SELECT %(pk)s, instance_pk FROM window_of
    ON CONFLICT DO NOTHING RETURNING 1
)
UPDATE reprocessings SET walked_pk = %(upto)s WHERE reprocessing_pk = %(pk)s"""

_GIVE_UP = """
WITH deadly AS (
    UPDATE reprocessing_items SET state = 'failed', reason = %(nobody)s, worker = NULL, leased_until = NULL
    WHERE item_pk = ANY(ARRAY(SELECT item_pk FROM reprocessing_items WHERE reprocessing_fk = %(pk)s
        AND state = 'running' AND leased_until < now() AND attempts >= %(max)s FOR UPDATE SKIP LOCKED))
    RETURNING 1
)
UPDATE reprocessings SET failed = failed + n FROM (SELECT count(*) AS n FROM deadly) AS counted
WHERE reprocessing_pk = %(pk)s AND n > 0"""

_CLAIM = f"""
WITH expired AS MATERIALIZED (
    SELECT item_pk FROM reprocessing_items WHERE reprocessing_fk = %(pk)s AND state = 'running'
        AND leased_until < now() ORDER BY leased_until LIMIT %(limit)s FOR UPDATE SKIP LOCKED
),
waiting AS MATERIALIZED (
    SELECT item_pk FROM reprocessing_items WHERE reprocessing_fk = %(pk)s AND state = 'waiting' AND run_after <= now()
    ORDER BY item_pk LIMIT %(limit)s - (SELECT count(*) FROM expired) FOR UPDATE SKIP LOCKED
),
claimed AS (
    UPDATE reprocessing_items SET state = 'running', worker = %(worker)s, attempts = attempts + 1,
        leased_until = now() + make_interval(secs => %(lease_s)s)
    WHERE item_pk = ANY(ARRAY(SELECT item_pk FROM expired UNION ALL SELECT item_pk FROM waiting))
    RETURNING item_pk AS job_pk, instance_fk, attempts, reprocessing_fk AS reprocessing_pk
)
SELECT c.reprocessing_pk, {TAKEN}
ORDER BY c.job_pk"""

_COUNT = """
UPDATE reprocessings SET scored = scored + %(scored)s, refused = refused + %(refused)s, failed = failed + %(failed)s,
    pace = pace * exp(-since / %(over)s) + %(all)s / since * (1 - exp(-since / %(over)s)),
    paced_at = clock_timestamp(), changed_at = clock_timestamp()
FROM (SELECT GREATEST(extract(epoch FROM clock_timestamp() - paced_at), 0.001)::float8 AS since
      FROM reprocessings WHERE reprocessing_pk = %(pk)s FOR UPDATE) AS passed
WHERE reprocessing_pk = %(pk)s"""


def upcoming(connection: Connection) -> Upcoming | None:
    """The oldest reprocessing that runs."""
    row = connection.execute(
        "SELECT reprocessing_pk, model_name, model_version, weights_sha256 FROM reprocessings WHERE state = 'running'"
        " ORDER BY reprocessing_pk LIMIT 1"
    ).fetchone()
    return None if row is None else Upcoming(row[0], ModelRef(*row[1:]))


def claim(
    connection: Connection, number: int, worker: str, limit: int, lease_s: float, *, max_attempts: int = MAX_ATTEMPTS
) -> Claimed:
    """Take up to `limit` images of a reprocessing, in the caller's transaction."""
    with connection.cursor(row_factory=dict_row) as cursor:
        run = cursor.execute(
            "SELECT *, GREATEST(0, extract(epoch FROM next_at - clock_timestamp()))::float8 AS early_s"
            " FROM reprocessings WHERE state = 'running' AND reprocessing_pk = %s FOR UPDATE",
            (number,),
        ).fetchone()
    if run is None:
        return Claimed([], 0.0)
    if run["early_s"] > 0:
        return Claimed([], run["early_s"])
    if run["when_idle"] and _is_true(connection, _LIVE):
        return Claimed([], _BUSY_S)
    if run["images_per_s"]:
        limit = max(1, min(limit, int(run["images_per_s"])))
    values = {
        "pk": run["reprocessing_pk"], "worker": worker, "limit": limit, "lease_s": lease_s, "max": max_attempts,
        "nobody": _NOBODY,
    }  # fmt: skip
    connection.execute("SELECT heed_changes()")
    connection.execute(_GIVE_UP, values)
    found = _claim(connection, values)
    if not found:
        return Claimed([], _walk_on(connection, run))
    if run["images_per_s"]:
        connection.execute(
            "UPDATE reprocessings SET next_at = clock_timestamp() + make_interval(secs => %s)"
            " WHERE reprocessing_pk = %s",
            (len(found) / run["images_per_s"], run["reprocessing_pk"]),
        )
    return Claimed(found, 0.0)


def extend(connection: Connection, item_pks: Sequence[int], lease_s: float) -> None:
    """Keep images that were handed out for `lease_s` seconds from now."""
    connection.execute(
        "UPDATE reprocessing_items SET leased_until = now() + make_interval(secs => %s)"
        " WHERE item_pk = ANY(%s) AND state = 'running'",
        (lease_s, list(item_pks)),
    )


def record(
    connection: Connection,
    worker: str,
    outcome: Outcome,
    *,
    max_attempts: int = MAX_ATTEMPTS,
    backoff_s: float = 2.0,
) -> int:
    """Write what came of images of one reprocessing, in the caller's transaction; how many scores may be shown.

    Only what this worker still holds counts: an image whose lease ended, or whose reprocessing was cancelled, is
    somebody else's or nobody's.
    """
    everything = [job for each in (outcome.scored, outcome.refused, outcome.failed) for job, _ in each]
    if not everything:
        return 0
    connection.execute("SELECT heed_changes()")
    held = _held(connection, worker, [job.job_pk for job in everything])
    scored = [(job, score) for job, score in outcome.scored if job.job_pk in held]
    refused = [(job, why) for job, why in outcome.refused if job.job_pk in held]
    failed = [(job, why) for job, why in outcome.failed if job.job_pk in held]
    connection.execute("DELETE FROM reprocessing_items WHERE item_pk = ANY(%s)", ([job.job_pk for job, _ in scored],))
    listed = _record_scores(connection, scored)
    _end(connection, [(job.job_pk, "refused", why) for job, why in refused])
    given_up = [(job.job_pk, "failed", why) for job, why in failed if job.attempts >= max_attempts]
    _end(connection, given_up)
    for job, why in failed:
        if job.attempts < max_attempts:
            _back(connection, job, why, backoff_s)
    counted = {"scored": len(scored), "refused": len(refused), "failed": len(given_up)}
    values = {**counted, "all": sum(counted.values()), "over": _PACE_S, "pk": everything[0].reprocessing_pk}
    connection.execute(_COUNT, values)
    return listed


def stop_for(connection: Connection, number: int, problem: str) -> None:
    """Pause a reprocessing that cannot go on, and say why."""
    with contextlib.suppress(Conflict):  # another worker or a person was faster
        pause(connection, number, "sangloc", problem)


def _model_of(run: dict[str, Any]) -> ModelRef:
    return ModelRef(run["model_name"], run["model_version"], run["weights_sha256"])


def _claim(connection: Connection, values: dict[str, Any]) -> list[Job]:
    with connection.cursor(row_factory=class_row(Job)) as cursor:
        return cursor.execute(_CLAIM.encode(), values, prepare=False).fetchall()


def _walk_on(connection: Connection, run: dict[str, Any]) -> float:
    """Make items of the next window, or end the reprocessing; how long to wait before the next look."""
    pk, walked, last = run["reprocessing_pk"], run["walked_pk"], run["last_pk"]
    if walked < last:
        upto = min(walked + _WINDOW_KEYS, last)
        values = chosen_values(run["selection"], _model_of(run), shadow=run["shadow"])
        connection.execute(_WALK.encode(), {**values, "pk": pk, "walked": walked, "upto": upto})
        return 0.0
    open_sql = (
        "SELECT EXISTS (SELECT FROM reprocessing_items WHERE reprocessing_fk = %(pk)s AND state = 'waiting')"
        " OR EXISTS (SELECT FROM reprocessing_items WHERE reprocessing_fk = %(pk)s AND state = 'running')"
    )
    if _is_true(connection, open_sql, {"pk": pk}):
        return _BUSY_S
    connection.execute(  # what got its score by another way, or is gone, was counted when it started
        "UPDATE reprocessings SET state = 'done', total = scored + refused + failed, ended_at = clock_timestamp(),"
        " changed_at = clock_timestamp() WHERE reprocessing_pk = %s",
        (pk,),
    )
    return 0.0


def _held(connection: Connection, worker: str, item_pks: Sequence[int]) -> frozenset[int]:
    """Those that this worker holds, locked in their order."""
    found = connection.execute(
        "SELECT item_pk FROM reprocessing_items WHERE item_pk = ANY(%s) AND state = 'running' AND worker = %s"
        " ORDER BY item_pk FOR UPDATE",
        (list(item_pks), worker),
    )
    return frozenset(pk for (pk,) in found)


def _record_scores(connection: Connection, scored: Sequence[tuple[Job, Score]]) -> int:
    """Write scores: those of studies that are read leave the list as it is; studies that are late keep their place."""
    states: dict[int, tuple[str, bool]] = {
        pk: (state, late)
        for pk, state, late in connection.execute(
            "SELECT study_fk, state, latest_due_at <= now() FROM worklist WHERE study_fk = ANY(%s)",
            ([job.study_pk for job, _ in scored],),
        )
    }
    quiet = frozenset(pk for pk, (state, _) in states.items() if state != "open")
    late = frozenset(pk for pk, (state, late) in states.items() if state == "open" and late)
    scores = [_in_place(job, score) if job.study_pk in late else score for job, score in scored]
    findings.record_scores(connection, scores, quiet=quiet)
    return sum(not score.shadow and job.study_pk not in quiet for job, score in scored)


def _in_place(job: Job, score: Score) -> Score:
    """The score without the due time that it would have given a study in time."""
    words = score.reason.partition(": ")[2]
    return replace(score, due_at=job.latest_due_at, reason=f"found later: {words}" if words else "")


def _end(connection: Connection, ended: Sequence[tuple[int, str, str]]) -> None:
    for item_pk, state, why in ended:
        connection.execute(
            "UPDATE reprocessing_items SET state = %s, reason = %s, worker = NULL, leased_until = NULL"
            " WHERE item_pk = %s",
            (state, why.replace("\0", "")[:2000], item_pk),
        )


def _back(connection: Connection, job: Job, why: str, backoff_s: float) -> None:
    connection.execute(
        "UPDATE reprocessing_items SET state = 'waiting', reason = %s, worker = NULL, leased_until = NULL,"
        " run_after = now() + make_interval(secs => %s) WHERE item_pk = %s",
        (why.replace("\0", "")[:2000], backoff_s * 2 ** min(job.attempts - 1, 10), job.job_pk),
    )


def _is_true(connection: Connection, sql: str, values: dict[str, Any] | None = None) -> bool:
    row = connection.execute(sql.encode(), values).fetchone()
    return row is not None and bool(row[0])
