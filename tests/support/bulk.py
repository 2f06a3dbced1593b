"""An archive that is reprocessed, with workers that do without pixels: every image gets the score that a test wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from storage import findings, jobs, reprocessing, reprocessing_queue, worklist
from storage.database import Database
from storage.findings import Score
from storage.reprocessing import ModelRef, Reprocessing, Selection
from storage.reprocessing_queue import Claimed, Outcome
from storage.studies import Indexer, Received

__all__ = ["NEW", "OLD", "Archive", "score_of"]

OLD, NEW = ModelRef("cxr", "1", "01" * 32), ModelRef("cxr", "2", "02" * 32)


def score_of(job: jobs.Job, model: ModelRef, probability: float = 0.9, **over: Any) -> Score:
    """A score that flags from 0.5 on and then makes the study due when it arrived."""
    flagged = probability >= 0.5
    values: dict[str, Any] = {
        "instance_pk": job.instance_pk, "study_pk": job.study_pk, "study_uid": job.study_uid,
        "model_name": model.name, "model_version": model.version, "weights_sha256": model.weights_sha256,
        "engine": "openvino", "probability": probability, "threshold": 0.5, "flagged": flagged, "findings": (),
        "listed": (), "decode_ms": 1.0, "inference_ms": 1.0,
        "due_at": job.arrived_at if flagged else job.latest_due_at,
        "reason": "due 08:00: abnormal, 0.90" if flagged else "",
    }  # fmt: skip
    return Score(**{**values, **over})


@dataclass
class Archive:
    """A database with studies, and what is done to it."""

    database: Database
    make_received: Callable[..., Received]

    def fill(self, count: int = 1, *, model: ModelRef | None = OLD, **over: Any) -> list[Received]:
        """So many studies of one image, scored by a model (None: they wait)."""
        made = [self.make_received(**over) for _ in range(count)]
        Indexer(self.database).index(made)
        while model is not None:
            with self.database.transaction() as connection:
                claimed = jobs.claim(connection, "live", 500, 60)
                if not claimed:
                    break
                findings.record_scores(connection, [score_of(job, model, 0.1) for job in claimed])
                jobs.done(connection, [job.job_pk for job in claimed])
        return made

    def start(self, model: ModelRef = NEW, selection: Selection | None = None, **over: Any) -> Reprocessing:
        shadow = over.pop("shadow", False)
        with self.database.autocommit() as connection:
            chosen = reprocessing.choose(connection, model, selection or Selection(), shadow=shadow)
        with self.database.transaction() as connection:
            return reprocessing.start(connection, chosen, "tester", **over)

    def claim(self, limit: int = 100, worker: str = "w", lease_s: float = 60, **over: Any) -> Claimed:
        """What a worker is given after the walk has come to something."""
        while True:
            with self.database.transaction() as connection:
                turn = reprocessing_queue.upcoming(connection)
                if turn is None:
                    return Claimed([], 1.0)
                found = reprocessing_queue.claim(connection, turn.number, worker, limit, lease_s, **over)
            if found.jobs or found.wait_s > 0:
                return found

    def record(self, worker: str = "w", model: ModelRef = NEW, probability: float = 0.9,
               *, scored: Sequence[jobs.Job] = (), **outcome: Any) -> None:  # fmt: skip
        over = {name: outcome.pop(name) for name in ("max_attempts", "backoff_s") if name in outcome}
        scores = [(job, score_of(job, model, probability)) for job in scored]
        with self.database.transaction() as connection:
            reprocessing_queue.record(connection, worker, Outcome(scored=scores, **outcome), **over)

    def run(self, worker: str = "w", limit: int = 7, model: ModelRef = NEW) -> list[int]:
        """Work until nothing is left; the instances that were scored."""
        mine = []
        while found := self.claim(limit, worker).jobs:
            self.record(worker, model, scored=found)
            mine += [job.instance_pk for job in found]
        return mine

    def now(self, number: int) -> Reprocessing:
        with self.database.autocommit() as connection:
            return reprocessing.by_number(connection, number)

    def change(self, name: str, number: int, **over: Any) -> Reprocessing:
        """Pause, resume or cancel."""
        with self.database.transaction() as connection:
            changed: Reprocessing = getattr(reprocessing, name)(connection, number, "tester", **over)
            return changed

    def listed(self, received: Received) -> worklist.Item:
        with self.database.autocommit() as connection:
            return worklist.item(connection, received.header.study_uid)

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.database.autocommit() as connection:
            return connection.execute(sql.encode(), values).fetchall()
