"""Deleting, rejecting, restoring: flags of all levels, worklist, jobs and scores; and what comes again or later."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from archive import Archive
from changed import BY, contradictions, rows, visible

from storage import changes, jobs, removal, studies, worklist
from storage.changes import By
from storage.database import Database
from storage.errors import Conflict, InvalidInput, NotFound
from storage.removal import Scope
from storage.studies import Indexer, Received

Make = Callable[..., Received]
GRACE = dt.timedelta(days=30)


@pytest.fixture
def indexer(database: Database) -> Indexer:
    return Indexer(database)


@pytest.fixture
def two_series(indexer: Indexer, make_received: Make) -> list[Received]:
    """One study: two films in a series DX, one image in a series CT."""
    given = [
        make_received(study_uid="1.1", series_uid="1.1.1", sop_uid="1.1.1.1"),
        make_received(study_uid="1.1", series_uid="1.1.1", sop_uid="1.1.1.2"),
        make_received(study_uid="1.1", series_uid="1.1.2", sop_uid="1.1.2.1", modality="CT", not_eligible="a CT"),
    ]
    indexer.index(given)
    return given


def remove(database: Database, scope: Scope, kind: Any = "delete", by: By = BY) -> changes.Change:
    return changes.write(database, lambda c: removal.remove(c, kind, scope, by, grace=GRACE))


def restore(database: Database, scope: Scope) -> changes.Change:
    return changes.write(database, lambda c: removal.restore(c, scope, BY))


def listed(database: Database) -> list[str]:
    with database.autocommit() as connection:
        return [item.study_uid for item in worklist.page(connection, mode="triage").items]


def test_a_deleted_study_is_gone_from_every_list_and_comes_back(database: Database, two_series: list[Received]) -> None:
    change = remove(database, Scope(study_uid="1.1"))
    assert (change.kind, change.actor, change.reason, change.study_uids) == ("delete", "dr.minh", "a test", ["1.1"])
    assert change.detail == {"level": "study", "series_uid": "", "instances": 3}
    assert visible(database) == {}
    assert listed(database) == []
    assert contradictions(database) == []
    with database.autocommit() as connection:
        with pytest.raises(NotFound):
            studies.study(connection, "1.1")
        with pytest.raises(NotFound):
            studies.instance(connection, "1.1.1.1")
        with pytest.raises(NotFound):
            worklist.item(connection, "1.1")
        with pytest.raises(NotFound):
            worklist.mark_read(connection, "1.1", "somebody")
        assert studies.series_of(connection, "1.1") == []
        assert studies.instances_of(connection, "1.1") == []
        assert studies.find_studies(connection, modality="CT") == []
        assert jobs.claim(connection, "w", 9, 60) == []
    restore(database, Scope(study_uid="1.1"))
    assert len(visible(database)) == 3
    assert listed(database) == ["1.1"]
    assert contradictions(database) == []
    with database.autocommit() as connection:
        assert len(jobs.claim(connection, "w", 9, 60)) == 2


def test_a_hidden_series_takes_its_modality_and_counts_along(database: Database, two_series: list[Received]) -> None:
    remove(database, Scope(study_uid="1.1", series_uid="1.1.2"))
    with database.autocommit() as connection:
        study = studies.study(connection, "1.1")
        item = worklist.item(connection, "1.1")
    assert (study.modalities, study.series_count, study.instance_count) == (["DX"], 1, 2)
    assert (item.modalities, item.series_count, item.instance_count) == (["DX"], 1, 2)
    assert contradictions(database) == []


def test_hiding_all_instances_one_by_one_hides_series_and_study(database: Database, two_series: list[Received]) -> None:
    for received in two_series:
        assert listed(database) == ["1.1"]
        remove(database, Scope(study_uid="1.1", sop_uids=(received.header.sop_uid,)))
        assert contradictions(database) == []
    assert listed(database) == []
    restore(database, Scope(study_uid="1.1", sop_uids=("1.1.2.1",)))
    assert set(visible(database)) == {"1.1.2.1"}
    assert contradictions(database) == []


def test_the_flag_of_a_study_is_that_of_its_visible_images(database: Database, store: Any) -> None:
    archive = Archive(database, store)
    low = archive.add(study_uid="1.2")
    high = archive.add(study_uid="1.2", series_uid=low.header.series_uid)
    archive.score(low, 0.2)
    archive.score(high, 0.9, due_min=20, Effusion=0.8)
    with database.autocommit() as connection:
        before = worklist.item(connection, "1.2")
    remove(database, Scope(study_uid="1.2", sop_uids=(high.header.sop_uid,)), "reject", By(actor="a", reason="quality"))
    with database.autocommit() as connection:
        item = worklist.item(connection, "1.2")
    assert (item.flagged, item.probability, item.findings) == (False, pytest.approx(0.2), [])
    assert item.reason == "not flagged: due by the maximum wait"
    assert item.due_at == before.due_at, "nobody is pushed back"
    restore(database, Scope(study_uid="1.2"))
    with database.autocommit() as connection:
        after = worklist.item(connection, "1.2")
    changed = {"changed_at"}
    assert {k: getattr(after, k) for k in after.__slots__ if k not in changed} == {
        k: getattr(before, k) for k in before.__slots__ if k not in changed
    }


def test_a_score_that_comes_after_the_rejection_shows_nowhere(database: Database, store: Any) -> None:
    archive = Archive(database, store)
    bad = archive.add(study_uid="1.3")
    archive.add(study_uid="1.3", series_uid=bad.header.series_uid)
    remove(database, Scope(study_uid="1.3", sop_uids=(bad.header.sop_uid,)))
    archive.score(bad, 0.99)
    with database.autocommit() as connection:
        item = worklist.item(connection, "1.3")
    assert (item.flagged, item.status) == (False, "waiting")
    assert contradictions(database) == []
    restore(database, Scope(study_uid="1.3"))
    with database.autocommit() as connection:
        assert worklist.item(connection, "1.3").flagged


def test_a_read_study_comes_back_as_read(database: Database, two_series: list[Received]) -> None:
    with database.transaction() as connection:
        worklist.mark_read(connection, "1.1", "somebody")
    remove(database, Scope(study_uid="1.1"))
    restore(database, Scope(study_uid="1.1"))
    assert rows(database, "SELECT state, read_by, hidden_state FROM worklist") == [("read", "somebody", None)]


@pytest.mark.parametrize(
    ("kind", "reason", "shown"),
    [
        ("delete", "sent by mistake", True),
        ("reject", "retention_expired", True),
        ("reject", "quality", False),
        ("reject", "patient_safety", False),
        ("reject", "wrong_worklist", False),
    ],
)
def test_a_resend_is_taken_and_stays_hidden_unless_nothing_was_wrong_with_it(
    database: Database, indexer: Indexer, two_series: list[Received], *, kind: str, reason: str, shown: bool
) -> None:
    remove(database, Scope(study_uid="1.1"), kind, By(actor="a", reason=reason))
    again = [replace(each, object_key=f"zz/{n}.dcm") for n, each in enumerate(two_series)]
    assert [each.outcome for each in indexer.index(again)] == ["duplicate"] * 3
    assert bool(visible(database)) is shown
    assert (listed(database) == ["1.1"]) is shown
    assert contradictions(database) == []
    assert bool(rows(database, "SELECT FROM audit WHERE action = 'instance.resent'")) is shown


def test_two_reasons_need_two_restores_or_one_of_the_scope(database: Database, two_series: list[Received]) -> None:
    sop = ("1.1.1.1",)
    first = remove(database, Scope(study_uid="1.1", sop_uids=sop))
    note = changes.write(
        database,
        lambda c: removal.reject(
            c, [*sop, "9.9.9"], By(actor="PACS2", reason="quality"), note_uid="1.9", note_study_uid="1.1", grace=None
        ),
    )
    changes.write(database, lambda c: removal.restore_change(c, first.change_pk, BY))
    assert sop[0] not in visible(database)
    with pytest.raises(Conflict, match="already"):
        changes.write(database, lambda c: removal.restore_change(c, first.change_pk, BY))
    changes.write(database, lambda c: removal.restore_change(c, note.change_pk, BY))
    assert sop[0] in visible(database)
    assert contradictions(database) == []


def test_a_rejection_of_what_is_not_here_yet_hides_it_when_it_comes(
    database: Database, indexer: Indexer, make_received: Make
) -> None:
    reject = By(actor="PACS2", reason="wrong_worklist")
    changes.write(
        database, lambda c: removal.reject(c, ["2.1", "2.2"], reject, note_uid="2.9", note_study_uid="2", grace=GRACE)
    )
    bad = [make_received(study_uid="2.0", series_uid="2.0.1", sop_uid=uid) for uid in ("2.1", "2.2")]
    good = make_received(study_uid="2.0", series_uid="2.0.1", sop_uid="2.3")
    other = make_received()
    assert [each.outcome for each in indexer.index([bad[0], other])] == ["stored", "stored"]
    assert set(visible(database)) == {other.header.sop_uid}
    assert contradictions(database) == []
    indexer.index([good])
    assert set(visible(database)) == {other.header.sop_uid, "2.3"}
    indexer.index([bad[1]])
    assert set(visible(database)) == {other.header.sop_uid, "2.3"}
    assert contradictions(database) == []


def test_a_new_instance_of_a_deleted_study_is_shown(
    database: Database, indexer: Indexer, make_received: Make, two_series: list[Received]
) -> None:
    with database.transaction() as connection:
        worklist.mark_read(connection, "1.1", "somebody")
    remove(database, Scope(study_uid="1.1"))
    new = make_received(study_uid="1.1", series_uid="1.1.1", sop_uid="1.1.1.3")
    assert indexer.index([new])[0].outcome == "stored"
    assert set(visible(database)) == {"1.1.1.3"}
    assert listed(database) == ["1.1"], "it has something unread"
    assert contradictions(database) == []


def test_what_cannot_be_done_is_said(database: Database, two_series: list[Received]) -> None:
    with pytest.raises(NotFound):
        remove(database, Scope(study_uid="9.9"))
    with pytest.raises(NotFound):
        remove(database, Scope(study_uid="1.1", sop_uids=("1.1.1.1", "9.9")))
    with pytest.raises(InvalidInput, match="quality"):
        remove(database, Scope(study_uid="1.1"), "reject")
    with pytest.raises(NotFound):
        restore(database, Scope(study_uid="1.1"))
    with pytest.raises(InvalidInput):
        By(actor="a", reason="  ")
    assert len(visible(database)) == 3
    assert rows(database, "SELECT FROM changes") == []


def test_a_preview_says_what_a_change_would_do_and_does_nothing(database: Database, two_series: list[Received]) -> None:
    scope = Scope(study_uid="1.1", series_uid="1.1.1")
    shown = changes.write(database, lambda c: removal.remove(c, "delete", scope, BY, grace=GRACE), dry_run=True)
    assert shown.detail["instances"] == 2
    assert len(visible(database)) == 3
    assert rows(database, "SELECT FROM changes") == []
    with pytest.raises(NotFound):
        changes.write(
            database, lambda c: removal.remove(c, "delete", Scope(study_uid="9"), BY, grace=GRACE), dry_run=True
        )


def test_a_client_that_hangs_in_a_change_holds_ingest_up_for_seconds_only(
    database: Database, indexer: Indexer, make_received: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "_IDLE_MS", 300)
    with database.connect() as hanging:
        hanging.execute("BEGIN")
        changes.begin(hanging)
        assert indexer.index([make_received()])[0].outcome == "stored"
        with pytest.raises(psycopg.Error, match="idle-in-transaction"):
            hanging.execute("SELECT 1")
