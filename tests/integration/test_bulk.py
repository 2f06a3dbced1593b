"""The worker's side of reprocessing without its engine: models that load, pages that are told, rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from bulk import NEW, Archive, score_of

from inference.bulk import Bulk, is_bulk
from inference.scoring import Model, Result
from storage import worklist
from storage.database import Database
from storage.errors import InvalidBundle, Unavailable
from storage.reprocessing import ModelRef
from storage.studies import Received

MODEL = cast("Model", object())  # only handed on


class Loading:
    """A model that is there after so many times of asking."""

    def __init__(self, asked: int = 0, error: Exception | None = None) -> None:
        self.left, self.error, self.refs = asked, error, list[ModelRef]()
        self.rests = 0

    def __call__(self, ref: ModelRef) -> Model:
        self.refs.append(ref)
        if self.error is not None:
            raise self.error
        if self.left:
            self.left -= 1
            raise Unavailable("it is being loaded")
        return MODEL

    def rest(self) -> None:
        self.rests += 1


@pytest.fixture
def archive(database: Database, make_received: Callable[..., Received]) -> Archive:
    return Archive(database, make_received)


def bulk_of(archive: Archive, loading: Loading, **over: Any) -> Bulk:
    given = {"batch_size": 2, "lease_s": 60.0, "max_attempts": 5, "backoff_s": 0.0, **over}
    return Bulk(archive.database, "w", loading, loading.rest, **given)


def claimed(bulk: Bulk) -> Any:
    """What is claimed once the walk has come to something."""
    while (taken := bulk.claim()) is None and bulk.wait_s == 0:
        pass
    return taken


def test_while_the_model_loads_no_image_is_taken_and_no_attempt_is_lost(archive: Archive) -> None:
    archive.fill(3)
    archive.start()
    loading = Loading(asked=2)
    bulk = bulk_of(archive, loading)
    for _ in range(2):
        assert bulk.claim() is None
        assert bulk.wait_s > 0
    assert archive.query("SELECT count(*) FROM reprocessing_items WHERE attempts > 0") == [(0,)]
    taken = claimed(bulk)
    assert taken.model is MODEL
    assert [job.attempts for job in taken.jobs] == [1, 1]
    assert all(map(is_bulk, taken.jobs))
    assert set(loading.refs) == {NEW}


def test_a_model_that_cannot_be_used_pauses_with_the_reason_and_takes_nothing(archive: Archive) -> None:
    archive.fill(2)
    number = archive.start().reprocessing_pk
    assert bulk_of(archive, Loading(error=InvalidBundle("its weights are damaged"))).claim() is None
    now = archive.now(number)
    assert (now.state, now.problem) == ("paused", "its weights are damaged")
    assert archive.change("resume", number).problem == ""
    assert len(claimed(bulk_of(archive, Loading())).jobs) == 2


def test_where_nothing_is_to_be_done_it_rests_and_looks_seldom(archive: Archive) -> None:
    loading = Loading()
    bulk = bulk_of(archive, loading)
    assert bulk.claim() is None
    assert (loading.rests, loading.refs) == (1, [])
    assert bulk.wait_s > 1


def test_pages_are_told_once_for_many_images_and_again_at_the_end(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.bulk._TELL_S", 1000.0)
    archive.fill(8)
    archive.start()
    bulk = bulk_of(archive, Loading())
    with archive.database.connect() as listener:
        listener.execute(f"LISTEN {worklist.CHANNEL}".encode())
        while (taken := claimed(bulk)) is not None:
            result = Result(scored=list(taken.jobs), scores=[score_of(job, NEW) for job in taken.jobs])
            bulk.record(result)
        told = sum(1 for _ in listener.notifies(timeout=0.2))
    assert told == 2
