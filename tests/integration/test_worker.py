"""The worker on a real database and store: scores, reasons, faults, and what it leaves behind."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from dx_film import dx_object
from rclone_server import ACCESS, SECRET, S3Server
from tiny_bundle import write_tiny_bundle

from inference import reading
from inference.engine import Engine, load_engine
from inference.triage import TriagePolicy
from inference.worker import Worker, WorkerConfig
from models.bundle import load_bundle
from models.maps import unpack
from models.outlier import Outlier, features_of
from models.phantom import chest
from storage import findings, jobs, worklist
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.migrate import migrate
from storage.objects import ObjectStore
from storage.objects.keys import new_key
from storage.objects.minio import MinioStore
from storage.studies import index_instances

pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

NOW = dt.datetime(2026, 3, 2, 8, 0, tzinfo=dt.UTC)
FILM, OFFSET = dx_object(chest(1, rows=320, columns=288))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversions of the two bundles, made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def flags_all(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = write_tiny_bundle(tmp_path_factory.mktemp("flags-all"), offset=20.0)
    load_engine(load_bundle(folder), "openvino", cache)
    return folder


@pytest.fixture(scope="module")
def flags_none(tmp_path_factory: pytest.TempPathFactory, flags_all: Path) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("flags-none"), offset=-20.0)  # the same weights


@dataclass
class Queue:
    """A database and a store, with what a test does to them."""

    database: Database
    store: ObjectStore
    cache: Path
    make_received: Callable[..., Any]
    policy: TriagePolicy = field(default_factory=TriagePolicy)

    def put(self, part10: bytes = FILM, **over: Any) -> Any:
        """Store an object and index it as ingest does; returns what was indexed."""
        received = self.make_received(
            object_key=new_key("1.2"),
            object_size=len(part10),
            dataset_offset=OFFSET,
            sha256=hashlib.sha256(part10[OFFSET:]).digest(),
            **{"received_at": NOW, "latest_due_at": NOW + dt.timedelta(hours=8), **over},
        )
        with self.store.writer(received.object_key) as writer:
            writer.write([part10])
            writer.commit()
        with self.database.transaction() as connection:
            index_instances(connection, [received])
        with self.database.autocommit() as connection:
            jobs.notify(connection)
        return received

    def study(self, part10: bytes = FILM) -> str:
        """The UID of a new study with one film."""
        return str(self.put(part10).header.study_uid)

    @contextlib.contextmanager
    def working(self, bundle: Path, **over: Any) -> Iterator[Worker]:
        """A worker in a thread; on leaving it is asked to stop and must do so without an error."""
        given = {"cache_dir": self.cache, "device": "openvino", "backoff_s": 0.05, "reload_s": 0.1, **over}
        worker = Worker(self.database, self.store, bundle, self.policy, WorkerConfig(**given))
        stop, ready = threading.Event(), threading.Event()
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(worker.run, stop, ready.set)
            try:
                assert ready.wait(60)
                yield worker
            finally:
                stop.set()
                running.result(60)

    def listed(self, study_uid: str) -> worklist.Item:
        with self.database.autocommit() as connection:
            return worklist.item(connection, study_uid)

    def settled(self, study_uid: str) -> worklist.Item:
        """The study's row once it is no longer waiting."""
        until(lambda: self.listed(study_uid).status != "waiting")
        return self.listed(study_uid)

    def scores(self, study_uid: str) -> list[findings.StoredScore]:
        with self.database.autocommit() as connection:
            return findings.of_study(connection, study_uid)

    def counts(self) -> jobs.Counts:
        with self.database.autocommit() as connection:
            return jobs.counts(connection)

    def mode(self) -> worklist.Mode:
        with self.database.autocommit() as connection:
            return worklist.mode(connection)


@pytest.fixture
def queue(database: Database, store: ObjectStore, cache: Path, make_received: Callable[..., Any]) -> Queue:
    return Queue(database, store, cache, make_received)


def until(found: Callable[[], Any], timeout_s: float = 30) -> Any:
    """The first true answer of `found`, which must come within the time."""
    deadline = time.monotonic() + timeout_s
    while not (answer := found()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return answer


def test_a_flag_brings_the_study_forward_and_every_number_has_a_source(queue: Queue, flags_all: Path) -> None:
    with queue.working(flags_all):
        study = queue.study()
        row = queue.settled(study)
        assert queue.mode() == ("triage", "")
    assert queue.mode().mode == "arrival"  # the worker left
    assert (row.status, row.flagged, row.model) == ("scored", True, "tiny 0.0.1")
    assert row.due_at == NOW + dt.timedelta(minutes=30)
    assert row.reason.startswith(f"due {row.due_at.astimezone():%H:%M}: likely ")
    (score,) = queue.scores(study)
    assert score.weights_sha256 == load_bundle(flags_all).weights_sha256
    assert (score.model_name, score.engine, score.threshold) == ("tiny", "openvino", 0.5)
    assert score.probability > 0.99
    assert {finding["name"] for finding in score.findings} == {"Effusion", "Pneumothorax"}
    assert score.decode_ms > 0
    assert score.inference_ms > 0
    assert queue.counts() == (0, 0, 0)


def test_without_a_flag_the_study_keeps_its_place_and_nothing_is_claimed(queue: Queue, flags_none: Path) -> None:
    with queue.working(flags_none):
        row = queue.settled(queue.study())
    assert (row.status, row.flagged, row.reason) == ("scored", False, "")
    assert row.due_at == row.latest_due_at
    assert row.probability is not None
    assert row.probability < 0.01


def test_the_probability_of_a_study_is_the_highest_of_its_images(queue: Queue, flags_all: Path) -> None:
    study = queue.put().header.study_uid
    for seed in (2, 3, 4):
        queue.put(dx_object(chest(seed, rows=320, columns=288))[0], study_uid=study)
    with queue.working(flags_all):
        until(lambda: queue.counts() == (0, 0, 0))
    probabilities = [score.probability for score in queue.scores(study)]
    assert len(probabilities) == 4
    assert queue.listed(study).probability == max(probabilities)


@pytest.mark.parametrize(
    ("part10", "told"),
    [
        (FILM[:-1000], "truncated"),
        (dx_object(chest(1, rows=320, columns=288), NumberOfFrames=2)[0], "2 frames"),
        (dx_object(chest(1, rows=320, columns=288) * 0)[0], "blank"),
        (dx_object(chest(1, rows=48, columns=48))[0], "no film"),
    ],
)
def test_what_cannot_be_read_stays_on_the_list_with_the_reason(
    part10: bytes, told: str, queue: Queue, flags_all: Path
) -> None:
    with queue.working(flags_all):
        bad, good = queue.settled(queue.study(part10)), queue.settled(queue.study())
    assert bad.status == "not_eligible"
    assert told in bad.reason
    assert bad.due_at == bad.latest_due_at
    assert good.status == "scored"
    assert queue.counts() == (0, 0, 0)


def test_bytes_that_changed_or_vanished_are_no_score_but_a_dead_job_with_the_reason(
    queue: Queue, flags_all: Path
) -> None:
    changed, gone = queue.put(), queue.put()
    path = Path(str(queue.store.path(changed.object_key)))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    queue.store.delete(gone.object_key)
    with queue.working(flags_all, max_attempts=2, poll_s=0.05):
        assert "SHA-256" in queue.settled(changed.header.study_uid).reason
        assert queue.settled(gone.header.study_uid).status == "failed"
    assert queue.counts() == (0, 0, 2)
    with queue.database.autocommit() as connection:
        assert {job.attempts for job in jobs.dead(connection)} == {2}


def test_with_a_broken_model_jobs_wait_and_the_list_says_why_until_it_is_mended(queue: Queue, tmp_path: Path) -> None:
    broken = write_tiny_bundle(tmp_path / "bundle", offset=20.0)
    weights = broken / "models" / "model.pt"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1])
    study = queue.study()
    with queue.working(broken):
        assert until(lambda: "SHA-256" in queue.mode().banner)
        assert queue.mode().mode == "arrival"
        assert queue.counts() == (1, 0, 0)
        weights.write_bytes(good)
        assert queue.settled(study).flagged
        assert until(lambda: queue.mode().mode == "triage")


def test_an_operating_point_that_the_model_lacks_is_said_on_the_list(queue: Queue, flags_all: Path) -> None:
    queue.policy = TriagePolicy(site_operating_points={"Huyện A": "sensitive"})
    with queue.working(flags_all):
        assert until(lambda: "operating_point of site Huyện A is sensitive" in queue.mode().banner)


def test_jobs_of_a_worker_that_died_are_taken_over(queue: Queue, flags_all: Path) -> None:
    study = queue.study()
    with queue.database.transaction() as connection:
        assert len(jobs.claim(connection, "the late", 8, 0.2)) == 1
    with queue.working(flags_all, poll_s=0.1):
        assert queue.settled(study).status == "scored"


def test_a_lease_does_not_run_out_while_its_worker_lives(
    queue: Queue, flags_all: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, read_pixels = threading.Event(), reading.read_pixels

    def slowly(*arguments: Any) -> Any:
        assert go.wait(30)
        return read_pixels(*arguments)

    monkeypatch.setattr(reading, "read_pixels", slowly)
    study = queue.study()
    with queue.working(flags_all, lease_s=0.6):
        until(lambda: queue.counts().running == 1)
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:  # more than two leases
            with queue.database.transaction() as connection:
                assert jobs.claim(connection, "another", 8, 60) == []
            time.sleep(0.05)
        go.set()
        assert queue.settled(study).status == "scored"


def test_a_worker_that_is_stuck_ends_so_that_another_takes_over(queue: Queue) -> None:
    code = f"""
import time
from inference.pulse import Pulse
from storage.database import Database
with Pulse(Database({queue.database.conninfo!r}), "stuck", lease_s=60, every_s=0.1, stuck_s=0.5) as pulse:
    for _ in range(10):
        pulse.hold(frozenset([1]))
        time.sleep(0.1)
    print("headway was seen", flush=True)
    time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 70
    assert "headway was seen" in done.stdout


class Faulty:
    """A real engine that fails, or gives no number, so many times first."""

    name = "openvino"

    def __init__(self, engine: Engine, faults: list[str]) -> None:
        self._engine = engine
        self.head = engine.head
        self._faults = faults

    def predict(self, batch: Any) -> Any:
        fault = self._faults.pop() if self._faults else ""
        if fault == "error":
            raise RuntimeError("out of memory")
        outputs = self._engine.predict(batch)
        return outputs._replace(logits=outputs.logits * (np.nan if fault == "nan" else 1))


@pytest.mark.parametrize(("fault", "status"), [("error", "scored"), ("nan", "not_eligible")])
def test_an_engine_that_fails_is_loaded_again_and_no_number_is_no_score(
    fault: str, status: str, queue: Queue, flags_all: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [fault]
    monkeypatch.setattr("inference.roster.load_engine", lambda *given: Faulty(load_engine(*given), faults))
    with queue.working(flags_all, poll_s=0.05):
        assert queue.settled(queue.study()).status == status
        assert queue.settled(queue.study()).status == "scored"
        assert until(lambda: queue.mode().mode == "triage")


def test_workers_share_the_queue_and_each_image_is_scored_once(queue: Queue, flags_all: Path) -> None:
    studies = [queue.study() for _ in range(30)]
    one = queue.working(flags_all, batch_size=2, name="one")
    with one, queue.working(flags_all, batch_size=2, name="two"):
        until(lambda: queue.counts() == (0, 0, 0))
    assert [len(queue.scores(study)) for study in studies] == [1] * 30


def test_a_flagged_image_gets_maps_that_add_up_to_its_logits(queue: Queue, flags_all: Path) -> None:
    bundle, received = load_bundle(flags_all), queue.put()
    with queue.working(flags_all):
        assert queue.settled(received.header.study_uid).flagged
    with queue.database.autocommit() as connection:
        key = findings.map_of(connection, received.header.sop_uid)
    maps = unpack(queue.store.read(key))
    (stored,) = queue.scores(received.header.study_uid)
    assert maps.names[0] == "Abnormal"
    columns = [bundle.outputs.index(name) for name in maps.names]
    logits = np.zeros((1, len(bundle.outputs)), np.float32)
    logits[0, columns] = maps.maps.sum((1, 2))
    assert bundle.probabilities(logits)[0, 0] == pytest.approx(stored.probability, abs=0.01)
    read = reading.read_pixels(FILM, OFFSET, "1.2.840.10008.1.2.1")
    assert maps.frame == pytest.approx(bundle.framed(read)[0])


def test_no_maps_are_stored_in_triage_only_or_of_what_is_not_flagged(
    queue: Queue, flags_all: Path, flags_none: Path
) -> None:
    for bundle, maps in ((flags_all, False), (flags_none, True)):
        study = queue.study()
        with queue.working(bundle, maps=maps):
            assert queue.settled(study).status == "scored"
        assert [one.map_key for one in queue.scores(study)] == [""]


def test_the_outlier_score_of_the_bundle_is_stored_with_each_score(
    queue: Queue, flags_all: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(flags_all, folder)
    bundle = load_bundle(folder)
    known = features_of(bundle, [chest(seed, rows=96, columns=80) for seed in range(40)])
    Outlier.fit(known, known).save(folder, bundle.weights_sha256)
    with queue.working(folder):
        study = queue.study()
        queue.settled(study)
    (stored,) = queue.scores(study)
    film = reading.read_pixels(FILM, OFFSET, "1.2.840.10008.1.2.1")
    assert stored.outlier == pytest.approx(
        float(Outlier.fit(known, known).score(features_of(bundle, [film]))[0]), rel=0.2
    )


def test_stop_finishes_what_is_in_hand_and_leaves_the_rest_waiting(queue: Queue, flags_all: Path) -> None:
    for _ in range(40):
        queue.put()
    with queue.working(flags_all, batch_size=2):
        until(lambda: queue.counts().waiting < 40)
    left = queue.counts()
    assert left.running == 0
    assert left.dead == 0
    with queue.database.autocommit() as connection:
        scored = connection.execute("SELECT count(*) FROM scores").fetchone()
    assert scored == (40 - left.waiting,)


def test_while_the_store_is_away_jobs_are_kept_and_no_attempt_is_lost(
    queue: Queue, flags_all: Path, tmp_path: Path
) -> None:
    server = S3Server(tmp_path / "s3")
    server.start()
    try:
        queue.store = MinioStore(server.endpoint, ACCESS, SECRET, "films", secure=False, timeout_s=1.0)
        queue.store.check()
        studies = [queue.study() for _ in range(3)]
        server.stop()
        with queue.working(flags_all, max_attempts=1):
            until(lambda: queue.counts().running == 3)
            assert queue.counts().dead == 0
            server.start()
            assert {queue.settled(study).status for study in studies} == {"scored"}
    finally:
        server.stop()


def test_when_the_database_comes_back_so_does_the_worker(queue: Queue, flags_all: Path, tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres")
    queue.database = Database(server.start())
    try:
        migrate(queue.database)
        with queue.working(flags_all, poll_s=0.1):
            assert queue.settled(queue.study()).status == "scored"
            server.stop()
            server.start()
            assert queue.settled(queue.study()).status == "scored"
    finally:
        queue.database.close()
        server.stop()
