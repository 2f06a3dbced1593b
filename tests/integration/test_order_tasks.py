"""The background tasks for orders, in an exchange that runs."""

from __future__ import annotations

import datetime as dt
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from archive import Archive
from ordering import place, study_uid_of

from pacs import exchange as process
from pacs import ordertasks
from pacs.tasks import Exchange
from storage import performed, worklist
from storage.database import Database
from storage.studies import Received, index_instances


@pytest.fixture
def running(database: Database, store: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An exchange process with the task, which looks again after a tenth of a second."""
    monkeypatch.setattr(ordertasks, "_PAUSE_S", 0.1)
    stop = threading.Event()
    parts = Exchange(database, store)
    thread = threading.Thread(target=process.run, args=(parts, stop, [("orders", ordertasks.follow_orders)]))
    thread.start()
    yield
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def until(done: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def finished_step(database: Database, study_uid: str, instance_uid: str) -> None:
    """A performed step that speaks of one instance."""
    with database.transaction() as connection:
        key = performed.add(
            connection, "1.2.3", source_aet="XRAY1", modality="DX", step_id="P", study_uids=[study_uid],
            instance_uids=[instance_uid], content={},
        )  # fmt: skip
        assert key is not None
        performed.update(connection, key, status="COMPLETED", instance_uids=[instance_uid], content={})


def complete(database: Database) -> bool:
    with database.autocommit() as connection:
        (step,) = performed.page(connection)
    return step.complete_at is not None


def test_an_image_that_arrives_completes_its_step(
    running: None, database: Database, make_received: Callable[..., Received]
):
    received = make_received()
    finished_step(database, received.header.study_uid, received.header.sop_uid)
    assert not complete(database)
    with database.transaction() as connection:
        index_instances(connection, [received])
    with database.autocommit() as connection:
        worklist.announce(connection)
    until(lambda: complete(database))


def test_an_image_that_is_hidden_has_not_arrived(database: Database, store: Any):
    received = Archive(database, store).add()
    finished_step(database, received.header.study_uid, received.header.sop_uid)
    with database.transaction() as connection:
        connection.execute("UPDATE instances SET hidden = true")
        assert performed.note_complete(connection) == []


def test_old_steps_are_looked_at_less_often(database: Database, store: Any):
    received = Archive(database, store).add()
    finished_step(database, received.header.study_uid, received.header.sop_uid)
    with database.transaction() as connection:
        connection.execute("UPDATE performed_steps SET changed_at = now() - interval '2 hours'")
        assert performed.note_complete(connection, within_s=3600) == []
        assert performed.note_complete(connection) == ["1.2.3"]


def test_a_study_that_missed_its_order_is_brought_forward(
    running: None, database: Database, make_received: Callable[..., Received]
):
    arrived = dt.datetime(2026, 11, 22, 9, 0, tzinfo=dt.UTC)
    received = make_received(accession_number="A1", patient_id="BN1", received_at=arrived,
                             latest_due_at=arrived + dt.timedelta(hours=8))  # fmt: skip
    with database.transaction() as indexing:  # neither sees the other
        index_instances(indexing, [received])
        number = place(database, priority="STAT", accession_number="A1")
    assert study_uid_of(database, number) != received.header.study_uid

    def brought_forward() -> bool:
        with database.autocommit() as connection:
            worklist.announce(connection)
            return worklist.item(connection, received.header.study_uid).priority == "stat"

    until(brought_forward)
