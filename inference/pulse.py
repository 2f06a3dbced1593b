"""The worker's signs of life: its row in `workers`, and longer leases for the jobs that it still holds."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Self

import structlog

from storage import jobs, workers
from storage.database import Database
from storage.errors import Unavailable

__all__ = ["Pulse"]

log = structlog.get_logger()


class Pulse:
    """A thread that beats until the context is left. `tell` and `hold` are safe from any thread."""

    def __init__(self, database: Database, name: str, *, lease_s: float, every_s: float = 3.0) -> None:
        self._database = database
        self._worker = workers.Worker(worker=name, problem="the model is being loaded")
        self._lease_s = lease_s
        self._every_s = min(every_s, lease_s / 3)
        self._held: frozenset[int] = frozenset()
        self._now = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def tell(self, *, model: str = "", weights_sha256: str = "", engine: str = "", problem: str = "") -> None:
        """What the worker runs, or why it runs nothing; known to the worklist at once."""
        self._worker = replace(self._worker, model=model, weights_sha256=weights_sha256, engine=engine, problem=problem)
        self._now.set()

    def hold(self, job_pks: frozenset[int]) -> None:
        """The jobs that are being worked on: their leases do not run out while this process lives."""
        self._held = job_pks

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
            self._now.wait(self._every_s)
            self._now.clear()

    def _beat(self) -> None:
        held = self._held
        with self._database.autocommit() as connection:
            workers.beat(connection, self._worker)
            if held:
                jobs.extend(connection, sorted(held), self._lease_s)
