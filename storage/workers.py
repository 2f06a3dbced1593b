"""Which workers are alive and what they run; the worklist falls back to arrival order when none has a model."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from psycopg.rows import class_row

from storage.database import Connection

__all__ = ["Worker", "alive", "beat", "leave"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One worker process."""

    worker: str  # host:pid:start
    model: str = ""  # name and version; '' when none could be loaded
    weights_sha256: str = ""
    engine: str = ""
    problem: str = ""  # why there is no model
    seen_at: dt.datetime | None = None  # set by the database


def beat(connection: Connection, worker: Worker) -> None:
    """Say that this worker is alive now; to be repeated well within the staleness that `alive` is asked for."""
    connection.execute(
        "INSERT INTO workers (worker, model, weights_sha256, engine, problem) VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT (worker) DO UPDATE SET model = excluded.model, weights_sha256 = excluded.weights_sha256,"
        " engine = excluded.engine, problem = excluded.problem, seen_at = now()",
        (worker.worker, worker.model, worker.weights_sha256, worker.engine, worker.problem),
    )


def leave(connection: Connection, worker: str) -> None:
    """Say that this worker stops; also forgets those that were silent for a day."""
    connection.execute("DELETE FROM workers WHERE worker = %s OR seen_at < now() - interval '1 day'", (worker,))


def alive(connection: Connection, stale_s: float = 15) -> list[Worker]:
    """Workers seen within the last `stale_s` seconds, by name."""
    with connection.cursor(row_factory=class_row(Worker)) as cursor:
        return cursor.execute(
            "SELECT worker, model, weights_sha256, engine, problem, seen_at FROM workers"
            " WHERE seen_at > now() - make_interval(secs => %s) ORDER BY worker",
            (stale_s,),
        ).fetchall()
