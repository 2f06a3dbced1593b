"""What a worker does when nothing else is to be done: images of reprocessings, a few at a time.

Live images always go first: a worker asks for these only when no live image waits, takes a fraction of a batch, and
puts off what it took ahead when a live image comes. So a live image waits for that fraction at most.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import structlog

from inference.scoring import Model, Result
from storage import reprocessing_queue as queue
from storage import worklist
from storage.database import Database
from storage.errors import InvalidBundle, Unavailable
from storage.jobs import Job
from storage.reprocessing import ModelRef

__all__ = ["Bulk", "Taken", "is_bulk"]

log = structlog.get_logger()
_NOTHING_S = 5.0  # before a look for another reprocessing
_LOADING_S = 0.5
_TELL_S = 1.0
Load = Callable[[ModelRef], Model]


class Taken(NamedTuple):
    """Images of one reprocessing, and the model that it names."""

    jobs: list[Job]
    model: Model


class Bulk:
    """The reprocessings, for one worker.

    `load` gives a model, or raises `InvalidBundle`, or `Unavailable` while it loads; `rest` hears that none is needed.
    """

    def __init__(
        self,
        database: Database,
        worker: str,
        load: Load,
        rest: Callable[[], None] = lambda: None,
        *,
        batch_size: int,
        lease_s: float,
        max_attempts: int,
        backoff_s: float,
    ) -> None:
        self._database = database
        self._worker = worker
        self._load, self._rest = load, rest
        self._batch_size = batch_size
        self._lease_s = lease_s
        self._max_attempts = max_attempts
        self._backoff_s = backoff_s
        self._untold, self._told_at = False, -math.inf
        self.wait_s = 0.0  # before there can be anything to claim

    def claim(self) -> Taken | None:
        """A few images, or None; raises `Unavailable`. A reprocessing whose model cannot be used is paused."""
        with self._database.autocommit() as connection:
            turn = queue.upcoming(connection)
        self.wait_s = _NOTHING_S
        if turn is None:
            self._announce(0.0)
            self._rest()
            return None
        try:
            model = self._load(turn.model)
        except Unavailable:  # it is being loaded
            self.wait_s = _LOADING_S
            return None
        except InvalidBundle as error:
            self._stop_for(turn.number, str(error))
            return None
        with self._database.transaction() as connection:
            found = queue.claim(
                connection, turn.number, self._worker, self._batch_size, self._lease_s, max_attempts=self._max_attempts
            )
        self.wait_s = found.wait_s
        return Taken(found.jobs, model) if found.jobs else None

    def record(self, result: Result) -> None:
        """Write what came of images of one reprocessing."""
        outcome = queue.Outcome(
            scored=list(zip(result.scored, result.scores, strict=True)),
            refused=result.not_eligible,
            failed=result.failed,
        )
        with self._database.transaction() as connection:
            listed = queue.record(
                connection, self._worker, outcome, max_attempts=self._max_attempts, backoff_s=self._backoff_s
            )
        self._untold = self._untold or listed > 0
        self._announce(_TELL_S)
        log.debug("images of a reprocessing recorded", scored=len(result.scores), listed=listed)

    def _announce(self, after_s: float) -> None:
        """Tell the pages that the list changed, which each of them then asks for: not with every few images."""
        if self._untold and time.monotonic() - self._told_at >= after_s:
            with self._database.autocommit() as connection:
                worklist.announce(connection)
            self._untold, self._told_at = False, time.monotonic()

    def _stop_for(self, number: int, problem: str) -> None:
        with self._database.transaction() as connection:
            queue.stop_for(connection, number, problem)
        log.error("a reprocessing was paused: its model cannot be used", reprocessing=number, reason=problem)


def is_bulk(job: Job) -> bool:
    """Whether it is an image of a reprocessing."""
    return job.reprocessing_pk is not None
