"""Rejection notes (IHE IOCM): those that come in, those that we write, and what is left when the grace time is over."""

from __future__ import annotations

import datetime as dt
import shutil
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from archive import Archive
from changed import contradictions, rows, visible
from notes import KEY_OBJECT, code, data_set, note
from pydicom import Dataset, dcmread

from pacs import rejection, removing, verify
from pacs.exchange import run
from pacs.ingest import Arrival, Ingest
from pacs.rejection_notes import build_note
from pacs.tasks import Exchange
from storage import changes, commitment, removal, worklist
from storage.changes import By
from storage.database import Database
from storage.errors import Conflict, DatabaseUnavailable
from storage.removal import RejectionPolicy, Scope

QUALITY = code("113001", "Rejected for Quality Reasons")
POLICY = RejectionPolicy(grace_days=1)


@pytest.fixture
def archive(database: Database, store: Any) -> Archive:
    return Archive(database, store)


@pytest.fixture
def ingest(database: Database, store: Any) -> Iterator[Ingest]:
    made = Ingest(
        database,
        store,
        screen=lambda _: "not a radiograph",
        arrival=lambda _h, at, _s: Arrival("routine", at + dt.timedelta(hours=4)),
        rejection=RejectionPolicy(accept_from=("PACS2",)),
    )
    yield made
    made.close()


@pytest.fixture
def send(ingest: Ingest) -> Callable[..., str]:
    """Store a key object document as a peer does; the outcome."""

    def send(document: Dataset, sender: str = "PACS2") -> str:
        with ingest.receive(
            sop_class=KEY_OBJECT,
            sop_uid=document.SOPInstanceUID,
            transfer_syntax="1.2.840.10008.1.2.1",
            source_aet=sender,
            source_address="10.0.0.9",
        ) as incoming:
            incoming.write([data_set(document)])
            return incoming.commit()

    return send


def study_of(archive: Archive, count: int = 2) -> list[str]:
    first = archive.add(study_uid="1.1", series_uid="1.1.1")
    more = [archive.add(study_uid="1.1", series_uid="1.1.1") for _ in range(count - 1)]
    return [each.header.sop_uid for each in (first, *more)]


def state(database: Database, uid: str) -> list[tuple[Any, ...]]:
    return rows(database, "SELECT state FROM rejection_notes WHERE sop_uid = %s", uid)


@pytest.mark.parametrize(
    "title",
    [
        ("113001", "quality"),
        ("113037", "patient_safety"),
        ("113038", "wrong_worklist"),
        ("113039", "retention_expired"),
    ],
)
def test_a_note_takes_effect_before_it_is_acknowledged(
    database: Database, archive: Archive, send: Callable[..., str], title: tuple[str, str]
) -> None:
    bad, good = study_of(archive)
    with database.transaction() as connection:
        worklist.mark_read(connection, "1.1", "somebody")
    assert send(note("1.9", "1.1", [bad, "5.5.5"], code(title[0]))) == "stored"
    assert set(visible(database)) == {good}, "neither the rejected image nor the note"
    assert state(database, "1.9") == [("applied",)]
    with database.autocommit() as connection:
        (change,) = changes.page(connection, study_uid="1.1")
        assert worklist.item(connection, "1.1").state == "read", "a rejection is nothing new to read"
    assert (change.kind, change.reason, change.actor, change.note_uid) == ("reject", title[1], "PACS2", "1.9")
    assert contradictions(database) == []
    assert send(note("1.9", "1.1", [bad, "5.5.5"], code(title[0]))) == "duplicate"
    late = archive.add(study_uid="1.1", series_uid="1.1.1", sop_uid="5.5.5")
    assert late.header.sop_uid not in visible(database)
    assert contradictions(database) == []


def test_a_note_is_committed_and_what_it_rejects_is_not(
    database: Database, archive: Archive, send: Callable[..., str]
) -> None:
    bad, good = study_of(archive)
    send(note("1.9", "1.1", [bad], QUALITY))
    with database.autocommit() as connection:
        assert set(commitment.held(connection, ["1.9", bad, good])) == {"1.9", good}


def test_a_note_for_the_whole_study_takes_it_off_the_list_with_itself(
    database: Database, archive: Archive, send: Callable[..., str]
) -> None:
    uids = study_of(archive)
    send(note("1.9", "1.1", uids, QUALITY))
    assert visible(database) == {}
    with database.autocommit() as connection:
        assert worklist.page(connection, mode="triage").items == []
    assert contradictions(database) == []


@pytest.mark.parametrize(
    "document",
    [
        note("1.9", "1.1", ["1.2"], code("113010", "Quality Issue")),
        note("1.9", "1.1", ["1.2"], code("113000", "Of Interest")),
        note("1.9", "1.1", ["1.2"], code("113001", scheme="99LOCAL")),
        note("1.9", "1.1", ["1.2"], QUALITY, ConceptNameCodeSequence=[]),
    ],
)
def test_other_key_object_documents_reject_nothing(
    database: Database, archive: Archive, send: Callable[..., str], document: Dataset
) -> None:
    shown = set(study_of(archive))
    for item in document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence:
        item.ReferencedSOPInstanceUID = min(shown)
    send(document)
    assert set(visible(database)) == shown | {"1.9"}
    assert state(database, "1.9") == []
    assert rows(database, "SELECT FROM changes") == []


def test_notes_of_strangers_and_broken_ones_are_kept_and_said(
    database: Database, archive: Archive, send: Callable[..., str]
) -> None:
    shown = set(study_of(archive))
    assert send(note("1.8", "1.1", sorted(shown), QUALITY), sender="STRANGER") == "stored"
    assert send(note("1.9", "1.1", ["../../etc", "1..2"], QUALITY)) == "stored"
    assert set(visible(database)) == shown | {"1.8", "1.9"}
    found = rows(database, "SELECT sop_uid, state, error FROM rejection_notes ORDER BY 1")
    assert found == [
        ("1.8", "refused", "Rejection notes of this sender are not applied."),
        ("1.9", "refused", "The rejection note refers to nothing."),
    ]
    assert len(rows(database, "SELECT FROM audit WHERE action = 'rejection.refused'")) == 2


def test_a_note_that_its_receiver_could_not_apply_is_applied_later(
    database: Database, store: Any, archive: Archive, send: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uids = study_of(archive)

    def away(*_: Any) -> None:
        raise DatabaseUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(rejection, "apply", away)
        assert send(note("1.9", "1.1", uids, QUALITY)) == "stored"
    assert state(database, "1.9") == [("waiting",)]
    assert removing.follow_notes(database, store, "SANGLOC", POLICY) == 1
    assert visible(database) == {}
    assert removing.follow_notes(database, store, "SANGLOC", POLICY) == 0


def test_many_processes_apply_a_note_once(
    database: Database, store: Any, archive: Archive, send: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uids = study_of(archive)
    with monkeypatch.context() as patched:
        patched.setattr(Ingest, "_apply_note", lambda *_: None)
        send(note("1.9", "1.1", uids, QUALITY))
    threads = [threading.Thread(target=rejection.apply, args=(database, store, "1.9", POLICY)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(rows(database, "SELECT FROM changes")) == 1
    assert contradictions(database) == []


def reject(database: Database, scope: Scope, reason: str, grace: dt.timedelta | None = None, comment: str = "") -> str:
    uid = f"2.25.{uuid.uuid4().int}"
    by = By(actor="dr.minh", reason=reason, comment=comment)
    changes.write(database, lambda c: removal.remove(c, "reject", scope, by, grace=grace, note_uid=uid))
    return uid


def test_our_own_rejection_is_told_by_a_note_that_conforms(
    database: Database, store: Any, archive: Archive, tmp_path: Path
) -> None:
    bad, good = study_of(archive)
    uid = reject(database, Scope(study_uid="1.1", sop_uids=(bad,)), "wrong_worklist", comment="Nhầm bệnh nhân")
    assert state(database, uid) == [("due",)]
    assert removing.follow_notes(database, store, "SANGLOC", POLICY) == 1
    assert state(database, uid) == [("applied",)]
    assert set(visible(database)) == {good}
    assert len(rows(database, "SELECT FROM changes")) == 1
    assert contradictions(database) == []
    ((key,),) = rows(database, "SELECT object_key FROM instances WHERE sop_uid = %s", uid)
    written = dcmread(BytesIO(store.read(key)))
    assert (written.file_meta.MediaStorageSOPClassUID, written.Modality) == (KEY_OBJECT, "KO")
    assert written.ConceptNameCodeSequence[0].CodeValue == "113038"
    assert str(written.PatientName) == "Nguyễn^Văn An"
    assert written.ContentSequence[0].TextValue == "Nhầm bệnh nhân"
    with store.open(key) as file:
        again = rejection.read_note(file)
    assert again == rejection.Note("wrong_worklist", (bad,))
    assert complaints(written, tmp_path) == []


def complaints(document: Dataset, folder: Path) -> list[str]:
    """What dciodvfy (dicom3tools) says is wrong."""
    tool = shutil.which("dciodvfy")
    if tool is None:
        pytest.skip("needs dciodvfy of dicom3tools")
    file = folder / "note.dcm"
    document.save_as(file, enforce_file_format=True)
    done = subprocess.run([tool, str(file)], capture_output=True, text=True, timeout=60, check=False)
    assert "KeyObjectSelectionDocument" in done.stderr + done.stdout
    return [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("Error")]


def test_a_note_about_all_kinds_of_objects_conforms(tmp_path: Path) -> None:
    common = {
        "study_uid": "1.1", "patient_id": "", "issuer": "HOSP", "patient_name": "", "patient_birth_date": None,
        "patient_sex": "", "study_date": dt.date(2026, 1, 2), "study_time": "", "accession_number": "", "study_id": "",
        "description": "", "referring_physician": "", "reason": "quality", "comment": "", "at": dt.datetime.now(dt.UTC),
    }  # fmt: skip
    of = [
        ("1.2.840.10008.5.1.4.1.1.2", 512),
        ("1.2.840.10008.5.1.4.1.1.9.1.1", None),
        ("1.2.840.10008.5.1.4.1.1.88.33", None),
    ]
    rejected = [
        common | {"series_uid": f"1.1.{n}", "sop_uid": f"1.1.{n}.1", "sop_class": sop_class, "rows": height}
        for n, (sop_class, height) in enumerate(of, 1)
    ]
    built = build_note("2.25.1", rejected)
    assert [item.ValueType for item in built.ContentSequence] == ["IMAGE", "WAVEFORM", "COMPOSITE"]
    assert complaints(dcmread(BytesIO(_file(built))), tmp_path) == []


def _file(document: Dataset) -> bytes:
    from pacs.part10 import file_meta

    return file_meta(KEY_OBJECT, document.SOPInstanceUID, "1.2.840.10008.1.2.1") + data_set(document)


def test_a_rejection_that_was_restored_before_its_note_was_written_has_none(
    database: Database, store: Any, archive: Archive
) -> None:
    study_of(archive)
    uid = reject(database, Scope(study_uid="1.1"), "quality")
    changes.write(database, lambda c: removal.restore(c, Scope(study_uid="1.1"), By(actor="a", reason="by mistake")))
    removing.follow_notes(database, store, "SANGLOC", POLICY)
    assert state(database, uid) == []
    assert len(visible(database)) == 2


def test_what_is_past_its_grace_time_is_purged_with_its_objects(
    database: Database, store: Any, archive: Archive
) -> None:
    bad, good = study_of(archive)
    kept = set(store.keys())
    over = dt.timedelta(seconds=-1)
    reject(database, Scope(study_uid="1.1", sop_uids=(bad,)), "patient_safety", over)
    ((key,),) = rows(database, "SELECT object_key FROM instances WHERE sop_uid = %s", bad)
    assert removing.purge_expired(database, store) == 1
    assert set(store.keys()) == kept - {key}
    assert rows(database, "SELECT sop_uid FROM instances") == [(good,)]
    assert rows(database, "SELECT FROM purged_objects") == []
    assert verify.verify(database, store, in_flight_s=0).sound
    ((change, purged),) = rows(database, "SELECT change_pk, purged_at IS NOT NULL FROM changes")
    assert purged
    assert rows(database, "SELECT detail FROM audit WHERE action = 'study.purged'") == [({"sop_uids": [bad]},)]
    with pytest.raises(Conflict, match="gone"):
        changes.write(database, lambda c: removal.restore_change(c, change, By(actor="a", reason="too late")))
    archive.add(study_uid="1.1", series_uid="1.1.1", sop_uid=bad)
    assert bad not in visible(database), "rejected for safety: hidden when it comes again"
    assert removing.purge_expired(database, store) == 1, "and purged again"
    assert contradictions(database) == []


def test_a_purged_study_leaves_nothing_but_its_history(database: Database, store: Any, archive: Archive) -> None:
    scored = archive.add(study_uid="1.1")
    archive.score(scored, 0.9, Effusion=0.8)
    scope, by = Scope(study_uid="1.1"), By(actor="a", reason="test images")
    changes.write(database, lambda c: removal.remove(c, "delete", scope, by, grace=dt.timedelta(seconds=-1)))
    assert removing.purge_expired(database, store) == 1
    for table in ("patients", "studies", "series", "instances", "scores", "worklist", "name_words", "jobs"):
        assert rows(database, f"SELECT FROM {table}") == [], table
    assert list(store.keys()) == []
    with database.autocommit() as connection:
        assert [change.kind for change in changes.page(connection, study_uid="1.1")] == ["delete"]
    archive.add(study_uid="1.1", sop_uid=scored.header.sop_uid)
    assert set(visible(database)) == {scored.header.sop_uid}, "a deleted study may be sent again"


def test_nothing_is_purged_before_its_time_or_while_another_change_keeps_it(
    database: Database, store: Any, archive: Archive
) -> None:
    bad, other = study_of(archive)
    scope = Scope(study_uid="1.1", sop_uids=(bad,))
    reject(database, scope, "quality", dt.timedelta(seconds=-1))
    for grace in (dt.timedelta(days=1), None):
        by = By(actor="PACS2", reason="quality")
        uid = f"2.25.{uuid.uuid4().int}"
        changes.write(
            database,
            lambda c, g=grace, u=uid, b=by: removal.reject(c, [bad], b, note_uid=u, note_study_uid="1.1", grace=g),
        )
    reject(database, Scope(study_uid="1.1", sop_uids=(other,)), "quality", dt.timedelta(days=1))
    assert removing.purge_expired(database, store) == 0
    assert len(rows(database, "SELECT FROM instances")) == 2


def test_a_purge_that_was_cut_off_deletes_the_objects_next_time(
    database: Database, store: Any, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_of(archive)
    reject(database, Scope(study_uid="1.1"), "quality", dt.timedelta(seconds=-1))

    def killed(_: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store, "delete", killed)
        with pytest.raises(KeyboardInterrupt):
            removing.purge_expired(database, store)
    assert rows(database, "SELECT FROM instances") == []
    assert len(list(store.keys())) == 2
    removing.purge_expired(database, store)
    assert list(store.keys()) == []
    assert rows(database, "SELECT FROM purged_objects") == []


def test_the_exchange_process_writes_notes_when_it_is_told(database: Database, store: Any, archive: Archive) -> None:
    study_of(archive)
    stop = threading.Event()
    thread = threading.Thread(
        target=run, args=(Exchange(database, store), stop, [("removal", removing.remove)]), daemon=True
    )
    thread.start()
    try:
        uid = reject(database, Scope(study_uid="1.1"), "quality")
        deadline = dt.datetime.now() + dt.timedelta(seconds=20)
        while state(database, uid) != [("applied",)]:
            assert dt.datetime.now() < deadline, state(database, uid)
            stop.wait(0.02)
    finally:
        stop.set()
        thread.join(20)
    assert visible(database) == {}
