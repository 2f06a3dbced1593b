"""An archive whose images are real objects, with real workers over it."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bulk import OLD, Archive
from dx_film import dx_object

from inference.triage import TriagePolicy
from inference.worker import Worker, WorkerConfig
from models.phantom import chest
from storage import jobs
from storage.objects.directory import DirectoryStore
from storage.objects.keys import new_key
from storage.reprocessing import ModelRef
from storage.studies import Received

__all__ = ["Hospital", "until"]

NOW = dt.datetime.now(dt.UTC)
FILM, OFFSET = dx_object(chest(1, rows=320, columns=288))


@dataclass
class Hospital(Archive):
    """An archive whose images are real objects, and real workers over it."""

    store: DirectoryStore
    cache: Path

    def films(
        self, count: int = 1, *, model: ModelRef | None = OLD, part10: bytes = FILM, **over: Any
    ) -> list[Received]:
        """So many studies of one film."""
        key = new_key("1.2")
        with self.store.writer(key) as writer:
            writer.write([part10])
            writer.commit()
        placed = {
            "object_key": key, "object_size": len(part10), "dataset_offset": OFFSET,
            "sha256": hashlib.sha256(part10[OFFSET:]).digest(), "received_at": NOW,
            "latest_due_at": NOW + dt.timedelta(hours=8),
        }  # fmt: skip
        return self.fill(count, model=model, **{**placed, **over})

    @contextlib.contextmanager
    def working(self, bundle: Path, **over: Any) -> Iterator[None]:
        given = {
            "cache_dir": self.cache,
            "device": "openvino",
            "poll_s": 0.05,
            "backoff_s": 0.05,
            "reload_s": 0.1,
            **over,
        }
        worker = Worker(self.database, self.store, bundle, TriagePolicy(), WorkerConfig(**given))
        stop, ready = threading.Event(), threading.Event()
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(worker.run, stop, ready.set)
            try:
                assert ready.wait(60)
                yield
            finally:
                stop.set()
                running.result(60)

    def wake(self) -> None:
        with self.database.autocommit() as connection:
            jobs.notify(connection)


def until(found: Callable[[], Any], timeout_s: float = 60) -> Any:
    """The first true answer of `found`, which must come within the time."""
    deadline = time.monotonic() + timeout_s
    while not (answer := found()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return answer
