"""Many writers of the same patients, studies and series: nobody fails, nothing is counted twice, first bytes win."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.database import Database
from storage.studies import Indexed, Indexer, Received, index_instances

Make = Callable[..., Received]

TABLES = ("patients", "studies", "series", "instances", "jobs", "worklist", "set_aside")


@pytest.fixture
def writers(conninfo: str) -> Iterator[list[Indexer]]:
    """Indexers with pools of their own, as in separate receiver processes."""
    databases = [Database(conninfo, max_connections=2) for _ in range(8)]
    yield [Indexer(each) for each in databases]
    for each in databases:
        each.close()


def truncate(conninfo: str) -> None:
    with psycopg.connect(conninfo) as connection:
        connection.execute("TRUNCATE patients, studies, series, instances, jobs, worklist, set_aside, audit CASCADE")


def index_at_once(writers: list[Indexer], work: list[list[list[Received]]]) -> list[tuple[Received, Indexed]]:
    """Each writer indexes its batches, all at the same time; what came of each element."""
    barrier = threading.Barrier(len(work))

    def write(writer: Indexer, batches: list[list[Received]]) -> list[tuple[Received, Indexed]]:
        barrier.wait(10)
        return [pair for batch in batches for pair in zip(batch, writer.index(batch), strict=True)]

    with ThreadPoolExecutor(len(work)) as pool:
        running = [pool.submit(write, writer, batches) for writer, batches in zip(writers, work, strict=True)]
        return [pair for future in running for pair in future.result(60)]


def received_twice_as_often(
    make: Make, chance: random.Random, *, patients: int, studies: int, series: int, instances: int
) -> list[Received]:
    """Every instance of the tree two to four times: the same bytes, or other bytes under the same UID."""
    everything = []
    for n in range(patients * studies * series * instances):
        i_series, i_study = n // instances, n // instances // series
        own = {
            "patient_id": f"P{i_study // studies}",
            "study_uid": f"1.1.{i_study}",
            "series_uid": f"1.2.{i_series}",
            "sop_uid": f"1.3.{n}",
            "not_eligible": chance.choice(["", "Lateral view."]),
        }
        contents = [f"{n} {chance.choice('aaab')}".encode() for _ in range(chance.randint(2, 4))]
        everything += [make(**own, content=content) for content in contents]
    chance.shuffle(everything)
    return everything


def batches_of(chance: random.Random, everything: list[Received], writers: int) -> list[list[list[Received]]]:
    work: list[list[list[Received]]] = [[] for _ in range(writers)]
    while everything:
        size = chance.choice([1, 1, 2, 5, 16])
        chance.choice(work).append(everything[:size])
        everything = everything[size:]
    return work


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False), st.tuples(*[st.integers(1, 3)] * 3), st.integers(1, 6), st.integers(2, 8))
def test_any_interleaving_gives_the_same_index(  # noqa: PLR0917 - fixtures and drawn values
    conninfo: str,
    writers: list[Indexer],
    make_received: Make,
    chance: random.Random,
    tree: tuple[int, int, int],
    instances: int,
    count: int,
) -> None:
    truncate(conninfo)
    patients, studies, series = tree
    everything = received_twice_as_often(
        make_received, chance, patients=patients, studies=studies, series=series, instances=instances
    )
    fresh = [Indexer(writer._database) for writer in writers[:count]]  # a cache must not outlive TRUNCATE
    done = index_at_once(fresh, batches_of(chance, everything, count))

    assert len(done) == len(everything)
    with psycopg.connect(conninfo) as connection:
        stored = dict(connection.execute("SELECT sop_uid, object_key FROM instances").fetchall())
        digests = dict(connection.execute("SELECT sop_uid, sha256 FROM instances").fetchall())
        aside = set(connection.execute("SELECT sop_uid, sha256, object_key FROM set_aside").fetchall())
        counts = {t: connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in TABLES}  # type: ignore[index]
        waiting = connection.execute("SELECT count(*) FROM instances WHERE triage = 'waiting'").fetchone()
        jobless = connection.execute(
            "SELECT study_uid FROM worklist WHERE (status = 'waiting') <> EXISTS (SELECT FROM jobs JOIN instances"
            " ON instance_pk = instance_fk WHERE instances.study_fk = worklist.study_fk)"
        ).fetchall()
    assert counts["studies"] == counts["worklist"] == patients * studies
    assert counts["patients"] == patients
    assert counts["series"] == patients * studies * series
    assert counts["instances"] == patients * studies * series * instances
    assert waiting == (counts["jobs"],)
    assert jobless == []

    # The bytes that were answered "stored" are those that are served; everything else was told the truth.
    winners = {received.header.sop_uid: received for received, indexed in done if indexed.outcome == "stored"}
    assert Counter(indexed.outcome for _, indexed in done)["stored"] == len(stored)
    assert {uid: received.object_key for uid, received in winners.items()} == stored
    for received, indexed in done:
        same = digests[received.header.sop_uid] == received.sha256
        if indexed.outcome != "stored":
            assert indexed.outcome == ("duplicate" if same else "conflict")
    kept = {
        (r.header.sop_uid, r.sha256, r.object_key)
        for r, indexed in done
        if indexed.outcome == "conflict" and indexed.keep_object
    }
    assert kept == aside


def test_the_first_instances_of_one_study_from_eight_associations(
    conninfo: str, writers: list[Indexer], make_received: Make
) -> None:
    for n in range(20):
        work = [[[make_received(patient_id=f"P{n}", study_uid=f"1.1.{n}", series_uid=f"1.2.{n}")]] for _ in writers]
        assert {indexed.outcome for _, indexed in index_at_once(writers, work)} == {"stored"}
    with psycopg.connect(conninfo) as connection:
        counted = connection.execute(
            "SELECT (SELECT count(*) FROM patients), (SELECT count(*) FROM studies), (SELECT count(*) FROM series)"
        ).fetchone()
    assert counted == (20, 20, 20)


def test_the_same_instances_in_any_order_at_once_do_not_deadlock(writers: list[Indexer], make_received: Make) -> None:
    chance = random.Random(1)
    known = make_received(study_uid="1.1", series_uid="1.2")
    for writer in writers:
        writer.index([known])
    for n in range(8):
        over = [{"study_uid": "1.1", "series_uid": "1.2", "sop_uid": f"1.3.{n}.{i}"} for i in range(150)]
        work = [[[make_received(**each) for each in chance.sample(over, len(over))]] for _ in writers]
        outcomes = Counter(indexed.outcome for _, indexed in index_at_once(writers, work))
        assert outcomes == {"stored": 150, "duplicate": 7 * 150}


def test_one_instance_at_once_under_two_studies_leaves_no_empty_study(
    conninfo: str, writers: list[Indexer], make_received: Make
) -> None:
    for n in range(20):
        work = [[[make_received(sop_uid=f"1.3.{n}", content=b"%d" % w)]] for w in range(len(writers))]
        outcomes = Counter(indexed.outcome for _, indexed in index_at_once(writers, work))
        assert outcomes == {"stored": 1, "conflict": 7}
    with psycopg.connect(conninfo) as connection:
        empty = connection.execute(
            "SELECT study_uid FROM studies WHERE NOT EXISTS"
            " (SELECT FROM instances JOIN series ON series_pk = series_fk WHERE series.study_fk = study_pk)"
        ).fetchall()
        patients = connection.execute("SELECT count(*) FROM patients").fetchone()
    assert empty == []
    assert patients == (20,)


def test_a_writer_that_hangs_in_its_transaction_delays_only_its_own_study(
    conninfo: str, writers: list[Indexer], make_received: Make
) -> None:
    mine = make_received()
    with psycopg.connect(conninfo) as hanging:
        index_instances(hanging, [mine])
        began = time.monotonic()
        assert writers[0].index([make_received()]) == [Indexed("stored", True)]
        assert time.monotonic() - began < 5
        with ThreadPoolExecutor(1) as pool:
            same_study = pool.submit(writers[1].index, [make_received(study_uid=mine.header.study_uid)])
            hanging.rollback()
            assert same_study.result(10) == [Indexed("stored", True)]
