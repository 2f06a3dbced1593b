"""The input gate in the real worker: what is put right and scored with a note, what is refused, a gate that is gone."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from dx_film import dx_object
from tiny_bundle import write_tiny_bundle

from inference import gate as gates
from inference.gate import open_gate
from inference.triage import TriagePolicy
from inference.worker import Worker, WorkerConfig
from models.maps import unpack
from models.notchest import draw
from models.phantom import chest
from storage import findings, jobs, worklist
from storage.database import Database
from storage.objects import ObjectStore
from storage.objects.keys import new_key
from storage.studies import index_instances

pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

NOW = dt.datetime(2026, 3, 2, 8, 0, tzinfo=dt.UTC)
GOOD = chest(1, rows=384, columns=352)


class Reading:
    """A worker over a database and a store; films go in, their rows and scores come out."""

    def __init__(self, database: Database, store: ObjectStore, bundle: Path, make_received: Callable[..., Any]) -> None:
        self.database, self.store, self.bundle, self.make_received = database, store, bundle, make_received

    @contextlib.contextmanager
    def working(self, **over: Any) -> Iterator[None]:
        config = WorkerConfig(device="cpu", threads=4, **over)
        worker = Worker(self.database, self.store, self.bundle, TriagePolicy(), config)
        stop, ready = threading.Event(), threading.Event()
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(worker.run, stop, ready.set)
            try:
                assert ready.wait(120)
                yield
            finally:
                stop.set()
                running.result(60)

    def put(self, pixels: np.ndarray, **changes: Any) -> str:
        """Store and index a film as ingest does; the UID of its study."""
        part10, offset = dx_object(pixels.astype(np.uint16), **changes)
        received = self.make_received(
            object_key=new_key("1.2"), object_size=len(part10), dataset_offset=offset,
            sha256=hashlib.sha256(part10[offset:]).digest(), received_at=NOW, latest_due_at=NOW + dt.timedelta(hours=8),
        )  # fmt: skip
        with self.store.writer(received.object_key) as writer:
            writer.write([part10])
            writer.commit()
        with self.database.transaction() as connection:
            index_instances(connection, [received])
        with self.database.autocommit() as connection:
            jobs.notify(connection)
        return str(received.header.study_uid)

    def settled(self, study: str) -> worklist.Item:
        deadline = time.monotonic() + 60
        while True:
            with self.database.autocommit() as connection:
                item = worklist.item(connection, study)
            if item.status != "waiting":
                return item
            assert time.monotonic() < deadline, "it was not read in time"
            time.sleep(0.02)

    def score(self, study: str) -> findings.StoredScore:
        with self.database.autocommit() as connection:
            (found,) = findings.of_study(connection, study)
        return found


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("flags-all"), offset=20.0)


@pytest.fixture
def reading(database: Database, store: ObjectStore, bundle: Path, make_received: Callable[..., Any]) -> Reading:
    return Reading(database, store, bundle, make_received)


def test_turned_and_inverted_films_are_put_right_scored_alike_and_say_so(reading: Reading) -> None:
    came = {
        "": GOOD,
        "top to the left": np.rot90(GOOD),
        "upside down": np.rot90(GOOD, 2),
        "top to the right": np.rot90(GOOD, 3),
        "black and white": 4095 - GOOD,
    }
    with reading.working():
        studies = {told: reading.put(pixels) for told, pixels in came.items()}
        wrongly_labelled = reading.put(GOOD, PhotometricInterpretation="MONOCHROME1")
        rows = {told: reading.settled(study) for told, study in studies.items()}
        reading.settled(wrongly_labelled)
    assert {row.status for row in rows.values()} == {"scored"}
    scores = {told: reading.score(study) for told, study in studies.items()}
    for told, score in scores.items():
        assert len(score.notes) == (told != "")
        assert all(told in note for note in score.notes)
        assert score.probability == pytest.approx(scores[""].probability, abs=0.02)
    assert reading.score(wrongly_labelled).notes == scores["black and white"].notes


def test_the_map_of_a_turned_film_lies_on_the_image_as_it_is_stored(reading: Reading) -> None:
    with reading.working():
        studies = [reading.put(GOOD), reading.put(np.rot90(GOOD))]
        for study in studies:
            assert reading.settled(study).flagged
    keys = [reading.score(study).map_key for study in studies]
    upright, stored = (unpack(reading.store.read(key)) for key in keys)
    assert stored.maps == pytest.approx(np.rot90(upright.maps, axes=(1, 2)), abs=1e-3)
    assert stored.frame == gates.frame_as_stored(upright.frame, 90)


def test_what_is_no_chest_film_is_not_scored_and_keeps_its_place_with_the_reason(reading: Reading) -> None:
    rng = np.random.default_rng(8)
    other = {
        "does not look like a frontal chest": draw("hand", rng, 400) * 4095,
        "noise": rng.integers(0, 4096, (400, 400)),
        "blank": np.full((400, 400), 7) + rng.integers(0, 2, (400, 400)) * 0,
        "grey levels": (GOOD // 1024) * 1024,
    }
    with reading.working():
        rows = {told: reading.settled(reading.put(pixels)) for told, pixels in other.items()}
        good = reading.settled(reading.put(GOOD))
    for told, row in rows.items():
        assert (row.status, row.flagged) == ("not_eligible", False)
        assert told in row.reason
        assert row.due_at == row.latest_due_at
    assert good.status == "scored"


def test_the_gate_can_be_turned_off(reading: Reading) -> None:
    with reading.working(gate=False):
        study = reading.put(np.rot90(GOOD))
        assert reading.settled(study).status == "scored"
    assert reading.score(study).notes == []


def test_a_damaged_gate_is_told_and_films_are_scored_without_it(
    reading: Reading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("inference.worker.open_gate", lambda: open_gate(tmp_path))
    with reading.working():
        study = reading.put(4095 - GOOD)
        assert reading.settled(study).status == "scored"
    assert reading.score(study).notes == []
    assert "the input gate cannot be used, films are scored without it" in capsys.readouterr().out
