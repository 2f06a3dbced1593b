"""Reprocessing by real workers: the same pixels and scores as live, live images first, and kill -9 at any moment."""

from __future__ import annotations

import datetime as dt
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dx_film import dx_object
from hospital import Hospital, until
from tiny_bundle import write_tiny_bundle

from inference import reading
from inference.engine import load_engine
from models import stored
from models.bundle import load_bundle
from models.phantom import chest
from storage import models
from storage.database import Database
from storage.objects.directory import DirectoryStore
from storage.reprocessing import ModelRef
from storage.studies import Received

pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

NOW = dt.datetime.now(dt.UTC)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A model that flags every film."""
    folder = write_tiny_bundle(tmp_path_factory.mktemp("flags-all"), offset=20.0)
    load_engine(load_bundle(folder), "openvino", cache)
    return folder


@pytest.fixture
def model(bundle: Path) -> ModelRef:
    loaded = load_bundle(bundle)
    return ModelRef(loaded.name, loaded.version, loaded.weights_sha256)


@pytest.fixture
def hospital(
    database: Database, store: DirectoryStore, cache: Path, make_received: Callable[..., Received]
) -> Hospital:
    return Hospital(database, make_received, store, cache)


def test_a_worker_scores_the_archive_as_it_scores_live_images(
    hospital: Hospital, bundle: Path, model: ModelRef
) -> None:
    hospital.films(20)
    begun = hospital.start(model)
    assert begun.total == 20
    with hospital.working(bundle):
        until(lambda: hospital.now(begun.reprocessing_pk).state == "done")
        live = hospital.films(1, model=None)[0]
        hospital.wake()
        until(lambda: hospital.listed(live).status == "scored")
    ended = hospital.now(begun.reprocessing_pk)
    assert (ended.scored, ended.refused, ended.failed) == (20, 0, 0)
    found = hospital.query("SELECT DISTINCT probability FROM scores WHERE model_name = 'tiny'")
    assert len(found) == 1  # the same film: live and again, to the last bit
    assert hospital.query("SELECT count(*) FROM worklist WHERE flagged AND model = 'tiny 0.0.1'") == [(21,)]


def test_live_images_go_before_bulk_that_is_in_hand(
    hospital: Hospital, bundle: Path, model: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, read_pixels = threading.Semaphore(0), reading.read_pixels
    begun_at: list[str] = []

    def slowly(part10: bytes, *rest: Any) -> Any:
        begun_at.append("read")
        assert go.acquire(timeout=60)
        return read_pixels(part10, *rest)

    monkeypatch.setattr(reading, "read_pixels", slowly)
    hospital.films(40)
    number = hospital.start(model).reprocessing_pk
    with hospital.working(bundle, batch_size=8, threads=4):
        until(lambda: len(begun_at) == 4)  # a batch of two in hand, and the next taken ahead
        live = hospital.films(4, model=None)
        hospital.wake()
        go.release(2)  # what is in hand ends
        until(lambda: len(begun_at) == 6)
        assert hospital.now(number).scored <= 2
        go.release(1000)
        until(lambda: hospital.now(number).state == "done")
    order = hospital.query(
        "SELECT study_uid FROM scores JOIN studies ON study_pk = study_fk WHERE model_name = 'tiny' ORDER BY score_pk"
    )
    uids = {one.header.study_uid for one in live}
    assert [n for n, (uid,) in enumerate(order) if uid in uids] == [2, 3, 4, 5]  # behind the two that were in hand


def test_live_images_do_not_wait_for_the_archive(hospital: Hospital, bundle: Path, model: ModelRef) -> None:
    hospital.films(400)
    number = hospital.start(model).reprocessing_pk
    with hospital.working(bundle):
        until(lambda: hospital.now(number).scored > 5)
        live = hospital.films(10, model=None)
        hospital.wake()
        until(lambda: all(hospital.listed(one).status == "scored" for one in live))
        assert hospital.now(number).state == "running"  # the archive is not through by far
        assert hospital.now(number).ended < 390
        hospital.change("cancel", number)


def test_a_worker_that_is_killed_loses_nothing_and_doubles_nothing(
    hospital: Hospital, bundle: Path, model: ModelRef, tmp_path: Path
) -> None:
    hospital.films(120)
    number = hospital.start(model).reprocessing_pk
    code = f"""
import threading
from pathlib import Path
from inference.triage import TriagePolicy
from inference.worker import Worker, WorkerConfig
from storage.database import Database
from storage.objects.directory import DirectoryStore
config = WorkerConfig(cache_dir=Path({str(hospital.cache)!r}), device="openvino", lease_s=1.0, poll_s=0.05)
database, store = Database({hospital.database.conninfo!r}), DirectoryStore(Path({str(tmp_path / "objects")!r}))
Worker(database, store, Path({str(bundle)!r}), TriagePolicy(), config).run(threading.Event())
"""
    for goal in (10, 40):
        worker = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            until(lambda: hospital.now(number).scored >= goal)  # noqa: B023
        finally:
            worker.send_signal(signal.SIGKILL)
            worker.wait(30)
    assert hospital.now(number).state == "running"
    with hospital.working(bundle):
        until(lambda: hospital.now(number).state == "done")
    ended = hospital.now(number)
    assert (ended.scored, ended.failed, ended.refused) == (120, 0, 0)
    assert hospital.query("SELECT count(*), count(DISTINCT instance_fk) FROM scores WHERE model_name = 'tiny'") == [
        (120, 120)
    ]


def test_a_model_that_nobody_has_pauses_it_and_says_so(hospital: Hospital, bundle: Path) -> None:
    hospital.films(2)
    number = hospital.start(ModelRef("elsewhere", "7", "ab" * 32)).reprocessing_pk
    with hospital.working(bundle):
        until(lambda: hospital.now(number).state == "paused")
        assert "elsewhere 7" in hospital.now(number).problem
        live = hospital.films(1, model=None)[0]
        hospital.wake()
        until(lambda: hospital.listed(live).status == "scored")  # live triage is untouched
    assert hospital.query("SELECT DISTINCT attempts FROM reprocessing_items") in ([], [(0,)])


def test_images_that_cannot_be_read_are_told_and_the_rest_goes_on(
    hospital: Hospital, bundle: Path, model: ModelRef
) -> None:
    hospital.films(3)
    (blank,) = hospital.films(1, part10=dx_object(chest(1, rows=320, columns=288) * 0)[0])
    (gone,) = hospital.films(1)
    hospital.store.delete(gone.object_key)
    number = hospital.start(model).reprocessing_pk
    with hospital.working(bundle, max_attempts=2):
        until(lambda: hospital.now(number).state == "done")
    ended = hospital.now(number)
    assert (ended.scored, ended.refused, ended.failed) == (3, 1, 1)
    told = hospital.query(
        "SELECT sop_uid, state, reason FROM reprocessing_items JOIN instances ON instance_pk = instance_fk ORDER BY 2"
    )
    assert [(uid, state) for uid, state, _ in told] == [
        (gone.header.sop_uid, "failed"), (blank.header.sop_uid, "refused"),
    ]  # fmt: skip
    assert "blank" in told[1][2]
    assert hospital.listed(blank).status == "scored"  # the old model could read it
    assert hospital.listed(gone).status == "scored"


def test_a_registered_model_that_is_not_active_is_fetched_and_scores_unseen(
    hospital: Hospital, bundle: Path, tmp_path: Path
) -> None:
    other = load_bundle(write_tiny_bundle(tmp_path / "other", offset=20.0, seed=2))
    put = stored.put(hospital.store, tmp_path / "other")
    version = models.Version(
        name="other", version="2", weights_sha256=other.weights_sha256, origin="monai", source="here",
        findings=list(other.findings), card="", **put._asdict(),
    )  # fmt: skip
    with hospital.database.transaction() as connection:
        models.add_version(connection, version, "tester")
    (made,) = hospital.films(1)
    before = hospital.listed(made)
    number = hospital.start(ModelRef("other", "2", other.weights_sha256), shadow=True).reprocessing_pk
    with hospital.working(bundle):
        until(lambda: hospital.now(number).state == "done")
        assert hospital.now(number).scored == 1
        live = hospital.films(1, model=None)[0]
        hospital.wake()
        until(lambda: hospital.listed(live).status == "scored")
    assert hospital.listed(made) == before
    assert hospital.listed(live).model == "tiny 0.0.1"
    assert hospital.query("SELECT model_name, shadow FROM scores ORDER BY 1") == [
        ("cxr", False), ("other", True), ("tiny", False),
    ]  # fmt: skip
