"""Any order of arrivals and changes, alone and with many writers: nothing is lost, rows agree, nobody deadlocks."""

from __future__ import annotations

import contextlib
import datetime as dt
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from changed import BY, contradictions, rows, visible
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from storage import changes, editing, findings, jobs, moving, purge, removal, undoing, worklist
from storage.changes import By, Change
from storage.database import Connection, Database
from storage.editing import PatientKey
from storage.errors import Conflict, NotFound
from storage.removal import REASONS, Scope
from storage.studies import Indexer, Received

Make = Callable[..., Received]

STUDIES = ["1.1", "1.2", "1.3"]
PATIENTS = ["P1", "P2"]
TABLES = (
    "patients, studies, series, instances, jobs, worklist, set_aside, audit, changes, changed_studies,"
    " removed_instances, rejection_notes, purged_objects, scores, findings"
)
uids = st.sampled_from(STUDIES)
series_of = st.integers(1, 2)
numbers = st.integers(1, 3)
patients = st.sampled_from(PATIENTS)
reasons = st.sampled_from(sorted(REASONS))


def truncate(conninfo: str) -> None:
    with psycopg.connect(conninfo) as connection:
        connection.execute(f"TRUNCATE {TABLES} CASCADE")


def scope_of(study: str, series: int | None, number: int | None) -> Scope:
    uid = None if series is None else f"{study}.{series}"
    return Scope(study_uid=study, series_uid=uid, sop_uids=() if number is None else (f"{study}.{series}.{number}",))


class Machine(RuleBasedStateMachine):
    """Three studies of two patients, each with up to two series of three instances."""

    database: Database
    conninfo: str
    make: Make

    def __init__(self) -> None:
        super().__init__()
        truncate(self.conninfo)
        self.indexers = [Indexer(self.database) for _ in range(2)]  # two receivers, each with a memory of its own
        self.sent: set[str] = set()
        self.copies = 0

    def do(self, change: Callable[[Connection], Change]) -> None:
        with contextlib.suppress(NotFound, Conflict):
            changes.write(self.database, change)

    @initialize()
    def something(self) -> None:
        for study in STUDIES:
            self.send(0, study, 1, 1, "P1")

    @rule(receiver=st.integers(0, 1), study=uids, series=series_of, number=numbers, patient=patients)
    def send(self, receiver: int, study: str, series: int, number: int, patient: str) -> None:
        self.copies += 1
        received = self.make(
            study_uid=study, series_uid=f"{study}.{series}", sop_uid=f"{study}.{series}.{number}", patient_id=patient,
            object_key=f"{self.copies}.dcm", modality="DX" if series == 1 else "CT",
            not_eligible="" if series == 1 else "a CT",
        )  # fmt: skip
        (indexed,) = self.indexers[receiver].index([received])
        uid = received.header.sop_uid
        assert indexed.outcome == ("duplicate" if uid in self.sent else "stored")
        self.sent.add(uid)

    @rule(study=uids, series=st.none() | series_of)
    def delete(self, study: str, series: int | None) -> None:
        self.do(lambda c: removal.remove(c, "delete", scope_of(study, series, None), BY, grace=dt.timedelta(days=1)))

    @rule(study=uids, series=series_of, number=numbers, reason=reasons)
    def reject(self, study: str, series: int, number: int, reason: str) -> None:
        by, uid = By(actor="a", reason=reason), f"{study}.{series}.{number}"
        self.copies += 1
        note = f"9.{self.copies}"
        self.do(lambda c: removal.reject(c, [uid], by, note_uid=note, note_study_uid=study, grace=None))

    @rule(study=uids, series=st.none() | series_of)
    def restore(self, study: str, series: int | None) -> None:
        self.do(lambda c: removal.restore(c, scope_of(study, series, None), BY))

    @rule(study=uids, into=uids)
    def merge_studies(self, study: str, into: str) -> None:
        self.do(lambda c: moving.merge_studies(c, study, into, BY))

    @rule(study=uids, series=series_of, number=st.none() | numbers, into=st.none() | uids)
    def split(self, study: str, series: int, number: int | None, into: str | None) -> None:
        self.do(lambda c: moving.split(c, scope_of(study, series, number), into, BY))

    @rule(old=patients, into=patients)
    def merge_patients(self, old: str, into: str) -> None:
        self.do(lambda c: editing.merge_patients(c, PatientKey(old), PatientKey(into), BY))

    @rule(study=uids, into=patients)
    def move_study(self, study: str, into: str) -> None:
        self.do(lambda c: editing.move_study(c, study, PatientKey(into), BY, new={"PatientName": "Lê^An"}))

    @rule(study=uids, name=st.sampled_from(["Trần^Bình", "", "Lê^An=黎"]))
    def update(self, study: str, name: str) -> None:
        self.do(lambda c: editing.update_study(c, study, {"PatientName": name, "StudyDate": "20250101"}, BY))

    @rule(back=st.integers(0, 2))
    def undo(self, back: int) -> None:
        with self.database.autocommit() as connection:
            history = changes.page(connection, limit=back + 1)
        for change in history[back:]:
            self.do(lambda c, pk=change.change_pk: undoing.undo(c, pk, BY))

    @invariant()
    def rows_agree(self) -> None:
        assert contradictions(self.database) == []

    @invariant()
    def nothing_is_lost(self) -> None:
        assert {uid for (uid,) in rows(self.database, "SELECT sop_uid FROM instances")} == self.sent


def test_arrivals_and_changes_in_any_order(database: Database, conninfo: str, make_received: Make) -> None:
    machine = type(
        "Bound", (Machine,), {"database": database, "conninfo": conninfo, "make": staticmethod(make_received)}
    )
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=15, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


@pytest.fixture
def databases(conninfo: str) -> Iterator[Callable[[], Database]]:
    """Pools of their own, as in separate processes; each error of a lock shows at once."""
    opened: list[Database] = []

    def open_one() -> Database:
        opened.append(Database(conninfo, max_connections=2))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


def random_change(chance: random.Random) -> Callable[[Connection], Change]:
    study, other = chance.sample(STUDIES, 2)
    scope = scope_of(study, chance.choice([None, 1, 2]), None)
    uid = f"{study}.{chance.randint(1, 2)}.{chance.randint(1, 400)}"
    quality = By(actor="a", reason="quality")
    series = scope_of(study, chance.randint(1, 2), None)
    return chance.choice(
        [
            lambda c: removal.remove(c, "delete", scope, BY, grace=None),
            lambda c: removal.restore(c, scope, BY),
            lambda c: removal.restore(c, scope, BY),
            lambda c: removal.reject(c, [uid], quality, note_uid=moving.new_uid(), note_study_uid=study, grace=None),
            lambda c: moving.merge_studies(c, study, other, BY),
            lambda c: moving.split(c, series, other, BY),
            lambda c: editing.merge_patients(c, PatientKey("P1"), PatientKey("P2"), BY),
            lambda c: editing.update_study(c, study, {"PatientName": chance.choice(["An", "Bình^Lê"])}, BY),
            lambda c: undoing.undo(c, changes.page(c, limit=1)[0].change_pk, BY),
        ]
    )


def test_changes_while_others_write_score_and_read(
    database: Database, databases: Callable[[], Database], make_received: Make
) -> None:
    until, failures = time.monotonic() + 6, list[BaseException]()
    stored: set[str] = set()
    done = {"changes": 0, "scores": 0, "arrivals": 0}

    def guarded(work: Callable[[random.Random, Database], None], seed: int) -> None:
        chance, own = random.Random(seed), databases()
        try:
            while time.monotonic() < until:
                work(chance, own)
        except BaseException as error:
            failures.append(error)

    indexers: dict[int, Indexer] = {}

    def arrive(chance: random.Random, own: Database) -> None:
        indexer = indexers.setdefault(id(own), Indexer(own))
        batch = []
        for _ in range(chance.choice([1, 2, 8])):
            study, series = chance.choice(STUDIES), chance.randint(1, 2)
            uid = f"{study}.{series}.{chance.randint(1, 400)}"
            batch.append(
                make_received(
                    study_uid=study, series_uid=f"{study}.{series}", sop_uid=uid, patient_id=chance.choice(PATIENTS)
                )
            )
        for received, indexed in zip(batch, indexer.index(batch), strict=True):
            assert indexed.outcome in ("stored", "duplicate")
            stored.add(received.header.sop_uid)
            done["arrivals"] += 1

    def change(chance: random.Random, own: Database) -> None:
        with contextlib.suppress(NotFound, Conflict, IndexError):
            changes.write(own, random_change(chance), dry_run=chance.random() < 0.1)
            done["changes"] += 1
        time.sleep(0.02)  # people are slower, too: arrivals must have their turn on two cores

    def score(chance: random.Random, own: Database) -> None:
        with own.transaction() as connection:
            claimed = jobs.claim(connection, f"w{chance.random()}", 8, 60)
        with own.transaction() as connection:
            findings.record_scores(connection, [_score(job, chance.random()) for job in claimed])
            jobs.done(connection, [job.job_pk for job in claimed])
            done["scores"] += len(claimed)
        with contextlib.suppress(NotFound), own.transaction() as connection:
            chance.choice([worklist.mark_read, worklist.reopen])(connection, chance.choice(STUDIES), "somebody")

    works = [arrive, arrive, arrive, change, change, score, score]
    threads = [threading.Thread(target=guarded, args=(work, seed)) for seed, work in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert min(done.values()) > 20, done
    assert {uid for (uid,) in rows(database, "SELECT sop_uid FROM instances")} == stored
    _settle_jobs(database)
    assert contradictions(database) == []
    assert visible(database).keys() <= stored


def _score(job: jobs.Job, probability: float) -> findings.Score:
    values: dict[str, Any] = {
        "instance_pk": job.instance_pk, "study_pk": job.study_pk, "study_uid": job.study_uid, "model_name": "m",
        "model_version": "1", "weights_sha256": "w", "engine": "torch-cpu", "probability": probability,
        "threshold": 0.5, "flagged": probability >= 0.5, "findings": (), "listed": (), "decode_ms": 1.0,
        "inference_ms": 1.0, "due_at": job.latest_due_at, "reason": "",
    }  # fmt: skip
    return findings.Score(**values)


def _settle_jobs(database: Database) -> None:
    """Jobs that were claimed when the time was over: their instances are neither scored nor without a job."""
    assert rows(database, "SELECT FROM jobs WHERE state = 'dead'") == []


def test_a_purge_beside_arrivals_loses_nothing_that_is_visible(
    database: Database, databases: Callable[[], Database], make_received: Make
) -> None:
    writer, remover = databases(), databases()
    indexer, stop, failures = Indexer(writer), threading.Event(), list[BaseException]()

    def arrive() -> None:
        number = 0
        try:
            while not stop.is_set():
                number += 1
                received = make_received(study_uid="1.1", series_uid=f"1.1.{number % 3}", sop_uid=f"1.1.1.{number}")
                assert indexer.index([received])[0].outcome == "stored"
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=arrive)
    thread.start()
    purged = 0
    over = dt.timedelta(seconds=-1)
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        with contextlib.suppress(NotFound):
            changes.write(remover, lambda c: removal.remove(c, "delete", Scope(study_uid="1.1"), BY, grace=over))
        purged += changes.write(remover, purge.purge)
    stop.set()
    thread.join(30)
    assert failures == []
    assert purged > 10
    while changes.write(remover, purge.purge):
        pass
    assert rows(database, "SELECT FROM instances WHERE hidden") == []
    assert contradictions(database) == []
