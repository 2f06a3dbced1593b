from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage import jobs, studies, worklist
from storage.database import Database
from storage.errors import NotFound
from storage.studies import Indexer, Received

Make = Callable[..., Received]


@pytest.fixture
def index(database: Database) -> Callable[..., None]:
    indexer = Indexer(database)

    def index(*batch: Received) -> None:
        indexer.index(batch)

    return index


def claim(database: Database, limit: int = 100, *, lease_s: float = 60, **over: int) -> list[jobs.Job]:
    with database.transaction() as connection:
        return jobs.claim(connection, "w", limit, lease_s, **over)


def make_due(database: Database) -> None:
    """As if the back-off had passed."""
    with database.autocommit() as connection:
        connection.execute("UPDATE jobs SET run_after = now()")


def test_a_job_carries_what_the_worker_needs(
    database: Database, index: Callable[..., None], make_received: Make
) -> None:
    received = make_received(site="HUE", priority="urgent", patient_age="045Y", frames=1)
    index(received)
    (job,) = claim(database)
    header = received.header
    for name in ("study_uid", "sop_uid", "sop_class", "transfer_syntax", "modality", "body_part", "view_position",
                 "photometric", "rows", "columns", "bits_allocated", "frames", "patient_age"):  # fmt: skip
        assert getattr(job, name) == getattr(header, name), name
    for name in ("object_key", "object_size", "dataset_offset", "sha256", "site", "priority", "latest_due_at"):
        assert getattr(job, name) == getattr(received, name), name
    assert job.arrived_at == received.received_at
    assert job.attempts == 1


def test_urgent_jobs_come_first_then_the_oldest(
    database: Database, index: Callable[..., None], make_received: Make
) -> None:
    for priority in ("routine", "stat", "urgent", "stat", "routine"):
        index(make_received(priority=priority))
    assert [job.priority for job in claim(database, 3)] == ["stat", "stat", "urgent"]
    rest = claim(database)
    assert [job.priority for job in rest] == ["routine", "routine"]
    assert rest[0].job_pk < rest[1].job_pk


def test_a_claimed_job_is_nobody_elses_until_its_lease_ends(
    database: Database, index: Callable[..., None], make_received: Make
) -> None:
    index(make_received())
    (job,) = claim(database, lease_s=60)
    assert claim(database) == []
    with database.transaction() as connection:
        jobs.extend(connection, [job.job_pk], -1)  # as if the time had passed
    (again,) = claim(database)
    assert (again.job_pk, again.attempts) == (job.job_pk, 2)


def test_an_extended_lease_holds(database: Database, index: Callable[..., None], make_received: Make) -> None:
    index(make_received())
    (job,) = claim(database, lease_s=-1)
    with database.transaction() as connection:
        jobs.extend(connection, [job.job_pk], 60)
    assert claim(database) == []


def test_done_jobs_are_gone(database: Database, index: Callable[..., None], make_received: Make) -> None:
    index(*[make_received() for _ in range(4)])
    claimed = claim(database, 3)
    with database.transaction() as connection:
        jobs.done(connection, [job.job_pk for job in claimed])
        assert jobs.counts(connection) == jobs.Counts(waiting=1, running=0, dead=0)


def test_many_workers_share_the_jobs_and_none_runs_twice(
    database: Database, index: Callable[..., None], make_received: Make
) -> None:
    index(*[make_received() for _ in range(200)])
    barrier = threading.Barrier(6)

    def work() -> list[int]:
        barrier.wait(10)
        mine: list[int] = []
        while claimed := claim(database, 7):
            pks = [job.job_pk for job in claimed]
            with database.transaction() as connection:
                jobs.done(connection, pks)
            mine += pks
        return mine

    with ThreadPoolExecutor(6) as pool:
        done = [pk for future in [pool.submit(work) for _ in range(6)] for pk in future.result(60)]
    assert len(done) == len(set(done)) == 200


def test_a_failed_job_waits_longer_each_time_and_then_dies_with_its_reason_shown(
    database: Database, index: Callable[..., None], make_received: Make
) -> None:
    received = make_received()
    index(received)
    waits = []
    for attempt in range(1, 4):
        (job,) = claim(database)
        with database.transaction() as connection:
            died = jobs.fail(connection, job.job_pk, "decoder\0 broke", max_attempts=3, backoff_s=10)
            assert died == (attempt == 3)
            row = connection.execute("SELECT run_after - now() FROM jobs").fetchone()
            assert row is not None
            waits.append(row[0])
        assert claim(database) == []
        make_due(database)
    assert waits[:2] == [dt.timedelta(seconds=10), dt.timedelta(seconds=20)]
    assert claim(database) == []
    with database.autocommit() as connection:
        (dead,) = jobs.dead(connection)
        item = worklist.item(connection, received.header.study_uid)
        instance = studies.instance(connection, received.header.sop_uid)
    assert (dead.sop_uid, dead.error, dead.attempts) == (received.header.sop_uid, "decoder broke", 3)
    assert (item.status, item.reason) == ("failed", "decoder broke")
    assert (instance.triage, instance.triage_reason) == ("failed", "decoder broke")


def test_a_job_that_kills_its_workers_is_given_up(
    database: Database, index: Callable[..., None], make_received: Make
) -> None:
    received = make_received()
    index(received)
    assert [len(claim(database, lease_s=-1, max_attempts=3)) for _ in range(5)] == [1, 1, 1, 0, 0]
    with database.autocommit() as connection:
        assert jobs.counts(connection).dead == 1
        assert "ended" in worklist.item(connection, received.header.study_uid).reason


def test_a_dead_job_can_be_tried_again(database: Database, index: Callable[..., None], make_received: Make) -> None:
    received = make_received()
    index(received)
    (job,) = claim(database)
    with database.transaction() as connection:
        jobs.fail(connection, job.job_pk, "no", max_attempts=1)
        jobs.retry(connection, job.job_pk, "admin")
    (again,) = claim(database)
    assert (again.job_pk, again.attempts) == (job.job_pk, 1)
    with database.transaction() as connection:
        item = worklist.item(connection, received.header.study_uid)
        assert (item.status, item.reason) == ("waiting", "")
        with pytest.raises(NotFound):
            jobs.retry(connection, job.job_pk, "admin")


def test_one_dead_image_does_not_hide_that_another_waits(
    database: Database, index: Callable[..., None], make_received: Make
) -> None:
    first = make_received()
    index(first, make_received(study_uid=first.header.study_uid))
    job, _ = claim(database)
    with database.transaction() as connection:
        jobs.fail(connection, job.job_pk, "no", max_attempts=1)
        assert worklist.item(connection, first.header.study_uid).status == "waiting"


def test_failing_a_job_that_is_gone_is_nothing(database: Database) -> None:
    with database.transaction() as connection:
        assert jobs.fail(connection, 4711, "late") is False


def test_notify_wakes_a_listener(database: Database) -> None:
    with database.connect() as listener, database.autocommit() as connection:
        listener.execute(f"LISTEN {jobs.CHANNEL}")
        jobs.notify(connection)
        assert [note.channel for note in listener.notifies(timeout=5, stop_after=1)] == [jobs.CHANNEL]


def test_dead_jobs_come_in_pages(database: Database, index: Callable[..., None], make_received: Make) -> None:
    index(*[make_received() for _ in range(5)])
    with database.transaction() as connection:
        for job in jobs.claim(connection, "w", 5, 60):
            jobs.fail(connection, job.job_pk, "no", max_attempts=1)
        first = jobs.dead(connection, limit=3)
        rest = jobs.dead(connection, after=first[-1].job_pk, limit=3)
    assert [len(first), len(rest)] == [3, 2]
    assert len({dead.job_pk for dead in first + rest}) == 5
