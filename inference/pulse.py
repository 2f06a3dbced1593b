"""The worker's signs of life: its row in `workers`, and longer leases for the jobs that it still holds.

It is also the watchdog: a worker that makes no headway with the jobs it holds, because a decoder never returns, ends at
once. Its jobs are taken over, and a second attempt decodes in a process of its own (`inference.reading`).
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from typing import Self

import structlog

from storage import jobs, reprocessing_queue, workers
from storage.database import Database
from storage.errors import Unavailable

__all__ = ["Pulse"]

log = structlog.get_logger()
_STUCK_EXIT = 70  # EX_SOFTWARE


class Pulse:
    """A thread that beats until the context is left. `tell` and `hold` are safe from any thread."""

    def __init__(
        self,
        database: Database,
        name: str,
        *,
        lease_s: float,
        every_s: float = 3.0,
        stuck_s: float = 300.0,
        known: bool = True,
    ) -> None:
        self._database = database
        self._worker = workers.Worker(worker=name, problem="the model is being loaded")
        self._lease_s = lease_s
        self._every_s = min(every_s, lease_s / 3)
        self._stuck_s = stuck_s  # far longer than any batch takes
        self._held: frozenset[int] = frozenset()
        self._held_items: frozenset[int] = frozenset()
        self._headway = time.monotonic()
        self._now = threading.Event()
        self._known = known  # stands in `workers`
        self._over = False
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def tell(self, *, model: str = "", weights_sha256: str = "", engine: str = "", problem: str = "") -> None:
        """What the worker runs, or why it runs nothing; known to the worklist at once."""
        self._worker = replace(self._worker, model=model, weights_sha256=weights_sha256, engine=engine, problem=problem)
        self._now.set()

    def hold(self, job_pks: frozenset[int], item_pks: frozenset[int] = frozenset()) -> None:
        """The jobs, and items of reprocessings, that are being worked on: their leases do not run out while we live."""
        self._held, self._held_items = job_pks, item_pks
        self.headway()

    def headway(self) -> None:
        """The worker does something, be it waiting for a part that is away."""
        self._headway = time.monotonic()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over = True
        self._now.set()
        self._thread.join()
        try:
            with self._database.autocommit() as connection:
                workers.leave(connection, self._worker.worker)
        except Unavailable:
            log.info("the database was away when the worker left")

    def _run(self) -> None:
        away = False
        while not self._over:
            try:
                self._beat()
                away = False
            except Unavailable as error:
                if not away:
                    log.warning("no sign of life could be given", error=str(error))
                away = True
            if (self._held or self._held_items) and time.monotonic() - self._headway > self._stuck_s:
                log.critical("the worker is stuck and ends", jobs=sorted(self._held), items=sorted(self._held_items))
                os._exit(_STUCK_EXIT)  # a thread inside a decoder cannot be ended in any other way
            self._now.wait(self._every_s)
            self._now.clear()

    def _beat(self) -> None:
        held, items = self._held, self._held_items
        with self._database.autocommit() as connection:
            if self._known:
                workers.beat(connection, self._worker)
            if held:
                jobs.extend(connection, sorted(held), self._lease_s)
            if items:
                reprocessing_queue.extend(connection, sorted(items), self._lease_s)
