"""From a film that comes in to its objects: a real worker, its maps, and the task that writes, with nobody's help."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from reported import Reported, film
from running import until
from tiny_bundle import write_tiny_bundle

from inference.triage import TriagePolicy
from inference.worker import Worker, WorkerConfig
from pacs import exchange, results
from storage import jobs, worklist
from storage.database import Database
from storage.objects import ObjectStore

pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@contextlib.contextmanager
def at_work(archive: Reported, bundle: Path, cache: Path) -> Iterator[None]:
    """A worker with this bundle, and the exchange process with the task that writes results."""
    config = WorkerConfig(device="openvino", cache_dir=cache)
    worker = Worker(archive.database, archive.store, bundle, TriagePolicy(), config)
    stop, ready = threading.Event(), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        running = [
            pool.submit(worker.run, stop, ready.set),
            pool.submit(exchange.run, archive.exchange, stop, [("results", results.write)]),
        ]
        try:
            assert ready.wait(120)
            yield
        finally:
            stop.set()
            for one in running:
                one.result(60)


def test_a_flagged_film_gets_its_objects_from_a_real_worker(
    database: Database, store: ObjectStore, tmp_path: Path
) -> None:
    archive = Reported(database, store)
    bundle = write_tiny_bundle(tmp_path / "flags-all", offset=20.0)
    with at_work(archive, bundle, tmp_path / "cache"):
        taken = film()
        archive.take(taken)
        with database.autocommit() as connection:
            jobs.notify(connection)
        until(lambda: [state for _, state in archive.states()] == ["written"] * 3, 120, "three objects")
    (report,), (state,), (capture,) = (archive.objects_of(kind) for kind in ("sr", "pr", "sc"))
    assert {one.StudyInstanceUID for one in (report, state, capture)} == {taken.StudyInstanceUID}
    assert capture.pixel_array.shape[2] == 3
    (box, *_) = state.GraphicAnnotationSequence[0].GraphicObjectSequence
    assert 0 <= min(box.GraphicData) <= max(box.GraphicData) <= max(taken.Rows, taken.Columns)
    with database.autocommit() as connection:
        assert worklist.item(connection, str(taken.StudyInstanceUID)).flagged
    assert archive.count("jobs") == 0
    assert archive.count("scores") == 1, "what we write is not read by the model"
    assert archive.count("instances") == 4
