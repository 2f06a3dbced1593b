"""Maps of flagged images: what is mapped, when it is stored, what happens to one that cannot be."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.explaining import Explained, MapKeeper, explain
from models.bundle import Bundle
from models.calibration import Calibration
from models.features import Head
from models.maps import unpack
from models.preprocess import Frame
from pacs.verify import verify
from storage import findings, jobs
from storage.database import Database
from storage.errors import NotFound, ObjectStoreUnavailable
from storage.findings import Finding, Score
from storage.objects.directory import DirectoryStore
from storage.objects.keys import new_key
from storage.studies import Indexer, Received

RNG = np.random.default_rng(1)
FEATURES = RNG.normal(size=(8, 5, 5)).astype(np.float32)
OUTPUTS = ("Abnormal", "Effusion", "Mass")
HEAD = Head(RNG.normal(size=(3, 8)).astype(np.float32), RNG.normal(size=3).astype(np.float32))
FRAME = Frame(0.1, 0.0, 0.9, 1.0)
Make = Callable[..., Received]


def bundle(outputs: tuple[str, ...] = OUTPUTS) -> Bundle:
    return Bundle(
        path=Path("nowhere"), name="cxr", version="1", weights_sha256="ab" * 32, outputs=outputs, input_size=64,
        channels=1, value_range=None, network_def={}, calibration=Calibration.identity(3),
        operating_points={}, operating_point="",
    )  # fmt: skip


def score(job: jobs.Job | None = None, **over: Any) -> Score:
    mass, effusion = Finding("Mass", 0.4, 0.3), Finding("Effusion", 0.2, 0.3)
    values: dict[str, Any] = {
        "instance_pk": job.instance_pk if job else 1, "study_pk": job.study_pk if job else 1,
        "study_uid": job.study_uid if job else "1.2", "model_name": "cxr", "model_version": "1",
        "weights_sha256": "ab" * 32, "engine": "openvino", "probability": 0.9, "threshold": 0.5, "flagged": True,
        "findings": (effusion, mass), "listed": (mass,), "decode_ms": 1, "inference_ms": 1,
        "due_at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "reason": "",
    }  # fmt: skip
    return Score(**{**values, **over})


def one(job: jobs.Job | None = None, **over: Any) -> Explained:
    (explained,) = explain(bundle(), HEAD, score(job, **over), FEATURES, FRAME)
    return explained


def test_abnormal_and_what_the_list_names_are_mapped_each_with_its_own_weights() -> None:
    made = one().maps()
    assert made.names == ("Abnormal", "Mass")
    assert made.frame == FRAME
    logits = HEAD.weights @ FEATURES.mean((1, 2)) + HEAD.bias
    assert made.maps.sum((1, 2)) == pytest.approx(logits[[0, 2]], abs=1e-4)


def test_a_network_without_an_output_abnormal_is_explained_by_its_greatest_finding() -> None:
    foreign = bundle(("Effusion", "Mass", "Hernia"))
    (named,) = explain(foreign, HEAD, score(), FEATURES, FRAME)
    assert (named.names, named.outputs) == (("Mass",), (1,))
    (unnamed,) = explain(foreign, HEAD, score(listed=()), FEATURES, FRAME)
    assert (unnamed.names, unnamed.outputs) == (("Mass",), (1,))


def test_nothing_is_mapped_that_is_not_flagged_or_has_no_features() -> None:
    bad = np.full_like(FEATURES, np.nan)
    assert explain(bundle(), HEAD, score(flagged=False), FEATURES, FRAME) == []
    assert explain(bundle(), None, score(), FEATURES, FRAME) == []
    assert explain(bundle(), HEAD, score(), None, FRAME) == []
    assert explain(bundle(), HEAD, score(), bad, FRAME) == []


@pytest.fixture
def scored(database: Database, make_received: Make) -> jobs.Job:
    """The job of an image whose score is committed."""
    Indexer(database).index([make_received()])
    with database.transaction() as connection:
        (job,) = jobs.claim(connection, "w", 1, 60)
        findings.record_scores(connection, [score(job)])
    return job


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "objects")


def key_of(database: Database, job: jobs.Job) -> str:
    with database.autocommit() as connection:
        return findings.map_of(connection, job.sop_uid)


def test_a_map_is_stored_and_named_once_the_keeper_is_left(
    database: Database, store: DirectoryStore, scored: jobs.Job
) -> None:
    with MapKeeper(database, store) as keeper:
        keeper.keep([one(scored)])
    stored = unpack(store.read(key_of(database, scored)))
    assert stored.names == ("Abnormal", "Mass")
    assert np.abs(stored.maps - one().maps().maps).max() < 1e-3


def test_a_stored_map_is_no_orphan(database: Database, store: DirectoryStore, scored: jobs.Job) -> None:
    with MapKeeper(database, store) as keeper:
        keeper.keep([one(scored)])
    stray = new_key("1.2")
    with store.writer(stray) as writer:
        writer.write([b"no row names it"])
        writer.commit()
    assert verify(database, store, sample=0.0, in_flight_s=0).orphans == [stray]


def test_a_second_map_of_the_same_score_leaves_no_object(
    database: Database, store: DirectoryStore, scored: jobs.Job
) -> None:
    with MapKeeper(database, store) as keeper:
        keeper.keep([one(scored), one(scored)])
        keeper.keep([one(scored, instance_pk=10**9)])  # one that is gone
    assert list(store.keys()) == [key_of(database, scored)]


class Away(DirectoryStore):
    """A real store that is away the first times it is written to."""

    times = 1

    def writer(self, key: str) -> Any:
        if self.times:
            self.times -= 1
            raise ObjectStoreUnavailable("away")
        return super().writer(key)


@pytest.mark.parametrize("times", [1, 99])
def test_a_store_that_is_away_is_tried_again_and_holds_nobody_up(
    times: int, database: Database, tmp_path: Path, scored: jobs.Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.explaining._AGAIN_S", (0.01, 0.01))
    store = Away(tmp_path / "objects")
    store.times = times
    with MapKeeper(database, store) as keeper:
        keeper.keep([one(scored)])
        keeper.drain()
    if times == 1:
        assert store.read(key_of(database, scored))
    else:
        with pytest.raises(NotFound):
            key_of(database, scored)


def test_one_that_cannot_be_made_does_not_end_the_keeper(
    database: Database, store: DirectoryStore, scored: jobs.Job, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    broken = one(scored)._replace(outputs=(99,))
    with MapKeeper(database, store) as keeper:
        keeper.keep([broken, one(scored)])
    assert key_of(database, scored)
