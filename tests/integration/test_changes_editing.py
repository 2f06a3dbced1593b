"""Patients, studies and series that are corrected, merged, moved and split; what comes later; and the way back."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from archive import Archive
from changed import BY, contradictions, rows, visible

from storage import changes, editing, moving, removal, studies, undoing, worklist
from storage.changes import Change
from storage.database import Connection, Database
from storage.editing import PatientKey
from storage.errors import Conflict, InvalidInput, NotFound
from storage.removal import Scope
from storage.studies import Indexer, Received

Make = Callable[..., Received]
AN, BINH = PatientKey("BN1"), PatientKey("BN2", "HOSP")


@pytest.fixture
def indexer(database: Database) -> Indexer:
    return Indexer(database)


@pytest.fixture
def send(indexer: Indexer, make_received: Make) -> Callable[..., str]:
    """Index one instance; its outcome."""

    def send(study: str, series: str, sop: str, **over: Any) -> str:
        received = make_received(study_uid=study, series_uid=series, sop_uid=sop, **over)
        return indexer.index([received])[0].outcome

    return send


@pytest.fixture
def two_patients(send: Callable[..., str]) -> None:
    """Nguyễn Văn An (BN1) with two studies, Trần Thị Bình (BN2 of HOSP) with one."""
    an = {"patient_id": "BN1", "patient_name": "Nguyễn^Văn An"}
    binh = {"patient_id": "BN2", "issuer": "HOSP", "patient_name": "Trần^Thị Bình", "patient_sex": "F"}
    send("1.1", "1.1.1", "1.1.1.1", **an)
    send("1.2", "1.2.1", "1.2.1.1", **an)
    send("2.1", "2.1.1", "2.1.1.1", **binh)


@pytest.fixture
def do(database: Database) -> Callable[[Callable[[Connection], Change]], Change]:
    """Run a change; the rows must agree afterwards."""

    def run(change: Callable[[Connection], Change]) -> Change:
        done = changes.write(database, change)
        assert contradictions(database) == []
        return done

    return run


def study(database: Database, uid: str) -> studies.Study:
    with database.autocommit() as connection:
        return studies.study(connection, uid)


def named(database: Database, name: str) -> set[str]:
    with database.autocommit() as connection:
        return {found.study_uid for found in studies.find_studies(connection, name=name)}


def corrections(database: Database, uid: str) -> dict[str, Any]:
    return rows(database, "SELECT corrections FROM studies WHERE study_uid = %s", uid)[0][0]


def everything(database: Database) -> list[tuple[Any, ...]]:
    """All that a change may touch, without keys and times of rows."""
    return [
        *rows(
            database,
            "SELECT study_uid, patient_key, s.patient_id, patient_name, patient_name_key, patient_birth_date,"
            " patient_sex, s.study_date, accession_number, description, modalities, hidden, corrections, as_sent,"
            " moved_to"
            " FROM studies AS s JOIN patients ON patient_pk = patient_fk ORDER BY 1",
        ),
        *rows(
            database,
            "SELECT study_uid, series_uid, modality, e.description, edits, e.corrections, e.hidden, home_study_uid"
            " FROM series AS e JOIN studies ON study_pk = study_fk WHERE e.moved_to IS NULL ORDER BY 1, 2",
        ),
        *rows(database, "SELECT patient_key, name, birth_date, sex, merged_into FROM patients ORDER BY 1"),
        *rows(database, "SELECT word, study_uid FROM name_words JOIN studies ON study_pk = study_fk ORDER BY 1, 2"),
        *rows(database, "SELECT study_uid, state, status, flagged, study_date FROM worklist ORDER BY 1"),
        *sorted(visible(database).items()),
    ]


def test_a_patients_name_is_corrected_in_all_studies(database: Database, two_patients: None, do: Any) -> None:
    change = do(
        lambda c: editing.update_patient(
            c, AN, {"PatientName": "Nguyễn^Văn Ân=阮=", "PatientBirthDate": "19610430"}, BY
        )
    )
    for uid in ("1.1", "1.2"):
        found = study(database, uid)
        assert (found.patient_name, found.patient_birth_date) == ("Nguyễn^Văn Ân=阮", dt.date(1961, 4, 30))
        sent = corrections(database, uid)
        assert sent["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Nguyễn^Văn Ân", "Ideographic": "阮"}]}
        assert sent["00100030"] == {"vr": "DA", "Value": ["19610430"]}
        (original,) = sent["04000561"]["Value"]
        assert original["04000550"]["Value"][0]["00100010"]["Value"] == [{"Alphabetic": "Nguyễn^Văn An"}]
        assert original["04000565"] == {"vr": "CS", "Value": ["CORRECT"]}
    assert named(database, "阮") == {"1.1", "1.2"}
    with database.autocommit() as connection:
        assert worklist.item(connection, "1.1").patient_name == "Nguyễn Văn Ân"
    assert change.study_uids == ["1.1", "1.2"]
    assert change.before["studies"]["1.1"]["patient_name"] == "Nguyễn^Văn An"
    assert change.after["patients"]["\\BN1"]["name"] == "Nguyễn^Văn Ân=阮"
    assert study(database, "2.1").patient_name == "Trần^Thị Bình"


def test_a_later_study_of_an_updated_patient_keeps_what_it_was_sent_with(
    database: Database, two_patients: None, do: Any, send: Any
) -> None:
    do(lambda c: editing.update_patient(c, AN, {"PatientName": "Lê^An"}, BY))
    send("1.1", "1.1.9", "1.1.9.1", patient_id="BN1", patient_name="Nguyễn^Văn An")
    send("1.3", "1.3.1", "1.3.1.1", patient_id="BN1", patient_name="Nguyễn^Văn An")
    assert study(database, "1.1").patient_name == "Lê^An"
    assert study(database, "1.3").patient_name == "Nguyễn^Văn An", "it may be another person with a mistyped ID"
    assert contradictions(database) == []


def test_a_merged_patients_studies_follow_now_and_later(
    database: Database, two_patients: None, do: Any, send: Any
) -> None:
    do(lambda c: editing.merge_patients(c, AN, BINH, BY))
    send("1.3", "1.3.1", "1.3.1.1", patient_id="BN1", patient_name="Nguyễn^Văn An")
    for uid in ("1.1", "1.2", "1.3"):
        found = study(database, uid)
        assert (found.patient_id, found.issuer, found.patient_name, found.patient_sex) == (
            "BN2", "HOSP", "Trần^Thị Bình", "F",
        )  # fmt: skip
        assert corrections(database, uid)["00100020"] == {"vr": "LO", "Value": ["BN2"]}
        assert corrections(database, uid)["00100021"] == {"vr": "LO", "Value": ["HOSP"]}
    assert named(database, "binh") == {"1.1", "1.2", "1.3", "2.1"}
    assert contradictions(database) == []


def test_chains_of_merges_end_at_the_last_patient(database: Database, two_patients: None, do: Any, send: Any) -> None:
    third = PatientKey("BN3")
    do(lambda c: editing.merge_patients(c, AN, third, BY, new={"PatientName": "Trần^Bình"}))
    last = do(lambda c: editing.merge_patients(c, third, BINH, BY))
    send("1.3", "1.3.1", "1.3.1.1", patient_id="BN1")
    assert study(database, "1.3").patient_id == "BN2"
    do(lambda c: undoing.undo(c, last.change_pk, BY))
    assert {study(database, uid).patient_id for uid in ("1.1", "1.2")} == {"BN3"}
    send("1.4", "1.4.1", "1.4.1.1", patient_id="BN1")
    assert study(database, "1.4").patient_id == "BN3"
    assert contradictions(database) == []


def test_another_patient_id_forwards_the_old_one(database: Database, two_patients: None, do: Any, send: Any) -> None:
    before = everything(database)
    change = do(lambda c: editing.update_patient(c, AN, {"PatientID": "BN9", "IssuerOfPatientID": "HOSP"}, BY))
    assert (study(database, "1.1").patient_id, study(database, "1.1").issuer) == ("BN9", "HOSP")
    send("1.3", "1.3.1", "1.3.1.1", patient_id="BN1")
    assert study(database, "1.3").patient_id == "BN9"
    with pytest.raises(Conflict, match="merge"):
        do(lambda c: editing.update_patient(c, PatientKey("BN9", "HOSP"), {"PatientID": "BN2"}, BY))
    do(lambda c: undoing.undo(c, change.change_pk, BY))
    assert study(database, "1.3").patient_id == "BN1"
    without = [
        row for row in everything(database) if row[0] not in ("1.3", "1.3.1.1", "HOSP\\BN9") and row[-1] != "1.3"
    ]
    assert without == before


def test_a_study_goes_to_the_patient_that_it_belongs_to(database: Database, two_patients: None, do: Any) -> None:
    do(lambda c: editing.move_study(c, "1.1", BINH, BY))
    assert (study(database, "1.1").patient_id, study(database, "1.2").patient_id) == ("BN2", "BN1")
    sent = corrections(database, "1.1")
    assert sent["00101040"] == {"vr": "LO"}, "the address is another person's"
    assert sent["00100040"] == {"vr": "CS", "Value": ["F"]}
    with pytest.raises(Conflict):
        do(lambda c: editing.move_study(c, "1.1", BINH, BY))
    with pytest.raises(NotFound):
        do(lambda c: editing.move_study(c, "1.1", PatientKey("none"), BY))
    do(lambda c: editing.move_study(c, "1.1", PatientKey("new"), BY, new={"PatientName": "Lê^Chi", "PatientSex": "F"}))
    assert (study(database, "1.1").patient_id, study(database, "1.1").patient_name) == ("new", "Lê^Chi")


def test_a_study_is_corrected_and_its_list_entries_follow(database: Database, two_patients: None, do: Any) -> None:
    given = {"StudyDate": "20250704", "AccessionNumber": "ACC9", "StudyDescription": "", "PatientComments": "none"}
    do(lambda c: editing.update_study(c, "1.1", given, BY))
    found = study(database, "1.1")
    assert (found.study_date, found.accession_number, found.description) == (dt.date(2025, 7, 4), "ACC9", "")
    with database.autocommit() as connection:
        assert worklist.item(connection, "1.1").study_date == dt.date(2025, 7, 4)
    assert corrections(database, "1.1")["00081030"] == {"vr": "LO"}
    assert corrections(database, "1.1")["00104000"] == {"vr": "LT", "Value": ["none"]}


def test_a_series_is_corrected(database: Database, two_patients: None, do: Any) -> None:
    given = {"SeriesDescription": "PA", "SeriesNumber": "7", "Modality": "CR"}
    change = do(lambda c: editing.update_series(c, "1.1", "1.1.1", given, BY))
    assert study(database, "1.1").modalities == ["CR"]
    sent = rows(database, "SELECT series_number, corrections FROM series WHERE series_uid = '1.1.1'")
    assert sent[0][0] == 7
    assert sent[0][1]["00200011"] == {"vr": "IS", "Value": [7]}
    assert sent[0][1]["04000561"]["Value"][0]["04000550"]["Value"][0]["00080060"] == {"vr": "CS", "Value": ["DX"]}
    do(lambda c: undoing.undo(c, change.change_pk, BY))
    assert rows(database, "SELECT series_number, corrections FROM series WHERE series_uid = '1.1.1'") == [(None, None)]
    with pytest.raises(NotFound):
        do(lambda c: editing.update_series(c, "1.1", "2.1.1", given, BY))


@pytest.mark.parametrize(
    "given",
    [
        {"PatientID": "X"},
        {"StudyInstanceUID": "1.2"},
        {"StudyDate": "2025-07-04"},
        {"StudyDate": "20250230"},
        {"AccessionNumber": "x" * 17},
        {"PatientName": "a=b=c=d"},
        {"PatientName": "A\x00B"},
        {"PatientSex": "male"},
        {"PatientSize": "tall"},
        {"StudyDescription": "\ud800"},
        {},
    ],
)
def test_values_that_the_standard_does_not_allow_are_refused(
    database: Database, two_patients: None, do: Any, given: dict[str, str]
) -> None:
    with pytest.raises(InvalidInput):
        do(lambda c: editing.update_study(c, "1.1", given, BY))
    assert rows(database, "SELECT FROM changes") == []


def test_a_merged_study_takes_what_comes_later(database: Database, two_patients: None, do: Any, send: Any) -> None:
    send("1.1", "1.1.1", "1.1.1.2", patient_id="BN1")
    do(lambda c: moving.merge_studies(c, "1.1", "2.1", BY))
    with pytest.raises(NotFound):
        study(database, "1.1")
    send("1.1", "1.1.1", "1.1.1.3", patient_id="BN1")
    send("1.1", "1.1.7", "1.1.7.1", patient_id="BN1")
    send("1.1", "1.1.7", "1.1.7.2", patient_id="BN1")
    send("1.1", "2.1.1", "2.1.1.9", patient_id="BN1")  # a series UID that the other study has, too
    assert send("1.1", "1.1.1", "1.1.1.1", patient_id="BN1") == "duplicate"
    places = visible(database)
    assert places["1.1.1.3"] == places["1.1.1.1"] == ("2.1", "1.1.1")
    assert places["1.1.7.1"] == places["1.1.7.2"] == ("2.1", "1.1.7")
    assert places["2.1.1.9"][0] == "2.1"
    assert places["2.1.1.9"][1] != "2.1.1"
    (sent,) = rows(database, "SELECT corrections FROM series WHERE series_uid = '1.1.7' AND moved_to IS NULL")[0]
    assert sent["0020000D"] == {"vr": "UI", "Value": ["2.1"]}
    assert sent["00100020"] == {"vr": "LO", "Value": ["BN2"]}
    assert sent["00080020"] == {"vr": "DA", "Value": ["20260102"]}
    assert contradictions(database) == []


def test_what_is_corrected_later_reaches_series_that_were_moved(
    database: Database, two_patients: None, do: Any
) -> None:
    do(lambda c: moving.merge_studies(c, "1.1", "2.1", BY))
    do(lambda c: editing.update_study(c, "2.1", {"StudyDescription": "both lungs", "PatientWeight": "61.5"}, BY))
    (sent,) = rows(database, "SELECT corrections FROM series WHERE series_uid = '1.1.1' AND moved_to IS NULL")[0]
    assert sent["00081030"] == {"vr": "LO", "Value": ["both lungs"]}
    assert sent["00101030"] == {"vr": "DS", "Value": [61.5]}
    assert [len(item["04000550"]["Value"]) for item in sent["04000561"]["Value"]] == [1, 1]


def test_a_series_is_split_off_into_a_study_of_its_own(
    database: Database, two_patients: None, do: Any, send: Any
) -> None:
    send("1.1", "1.1.2", "1.1.2.1", patient_id="BN1", modality="CT", not_eligible="a CT")
    before = everything(database)
    scope = Scope(study_uid="1.1", series_uid="1.1.2")
    change = do(lambda c: moving.split(c, scope, None, BY))
    new = change.detail["into"]
    assert new.startswith("2.25.")
    assert study(database, new).patient_name == "Nguyễn^Văn An"
    assert study(database, new).modalities == ["CT"]
    assert study(database, "1.1").modalities == ["DX"]
    send("1.1", "1.1.2", "1.1.2.2", patient_id="BN1", modality="CT", not_eligible="a CT")
    assert visible(database)["1.1.2.2"] == (new, "1.1.2")
    with database.autocommit() as connection:
        assert worklist.item(connection, new).due_at == worklist.item(connection, "1.1").due_at
    do(lambda c: undoing.undo(c, change.change_pk, BY))
    assert visible(database).pop("1.1.2.2") == ("1.1", "1.1.2")
    assert [row for row in everything(database) if row[0] != "1.1.2.2"] == before
    assert rows(database, "SELECT FROM series WHERE moved_to IS NOT NULL") == []


def test_instances_are_split_off_under_a_series_uid_of_their_own(
    database: Database, two_patients: None, do: Any, send: Any
) -> None:
    send("1.1", "1.1.1", "1.1.1.2", patient_id="BN1")
    before = everything(database)
    change = do(lambda c: moving.split(c, Scope(study_uid="1.1", sop_uids=("1.1.1.2",)), "2.1", BY))
    moved, series = visible(database)["1.1.1.2"]
    assert (moved, visible(database)["1.1.1.1"]) == ("2.1", ("1.1", "1.1.1"))
    assert series.startswith("2.25.")
    assert send("1.1", "1.1.1", "1.1.1.2", patient_id="BN1") == "duplicate"
    send("1.1", "1.1.1", "1.1.1.3", patient_id="BN1")
    assert visible(database)["1.1.1.3"] == ("1.1", "1.1.1"), "the series itself stayed"
    (sent,) = rows(database, "SELECT corrections FROM series WHERE series_uid = %s", series)[0]
    assert (sent["0020000D"]["Value"], sent["0020000E"]["Value"]) == (["2.1"], [series])
    do(lambda c: undoing.undo(c, change.change_pk, BY))
    assert [row for row in everything(database) if row[0] != "1.1.1.3"] == before
    with pytest.raises(NotFound):
        do(lambda c: moving.split(c, Scope(study_uid="1.1", sop_uids=("1.1.1.1", "9.9")), None, BY))


def test_merges_of_studies_are_undone_in_order(database: Database, two_patients: None, do: Any, send: Any) -> None:
    start = everything(database)
    first = do(lambda c: moving.merge_studies(c, "1.1", "1.2", BY))
    middle = everything(database)
    second = do(lambda c: moving.merge_studies(c, "1.2", "2.1", BY))
    assert {place[0] for place in visible(database).values()} == {"2.1"}
    with pytest.raises(Conflict, match="later"):
        do(lambda c: undoing.undo(c, first.change_pk, BY))
    do(lambda c: undoing.undo(c, second.change_pk, BY))
    assert everything(database) == middle
    with pytest.raises(Conflict):
        do(lambda c: undoing.undo(c, second.change_pk, BY))
    do(lambda c: undoing.undo(c, first.change_pk, BY))
    assert everything(database) == start


@pytest.mark.parametrize(
    "change",
    [
        lambda c: editing.update_patient(c, AN, {"PatientName": "Lê^An", "EthnicGroup": "Kinh"}, BY),
        lambda c: editing.merge_patients(c, AN, BINH, BY),
        lambda c: editing.move_study(c, "1.1", BINH, BY),
        lambda c: editing.update_study(c, "1.1", {"PatientName": "Lê^An", "StudyDate": "20250101"}, BY),
        lambda c: editing.update_series(c, "1.1", "1.1.1", {"Modality": "CR"}, BY),
        lambda c: moving.merge_studies(c, "1.1", "2.1", BY),
        lambda c: moving.split(c, Scope(study_uid="1.1", series_uid="1.1.1"), "2.1", BY),
    ],
)
def test_every_change_is_undone_to_the_last_column(
    database: Database, two_patients: None, do: Any, change: Callable[[Connection], Change]
) -> None:
    do(lambda c: editing.update_study(c, "1.1", {"StudyDescription": "an earlier correction"}, BY))
    before = everything(database)
    done = do(change)
    assert everything(database) != before
    undone = do(lambda c: undoing.undo(c, done.change_pk, BY))
    assert everything(database) == before
    with database.autocommit() as connection:
        newest, older, *_ = changes.page(connection, study_uid="1.1")
    assert (newest.kind, newest.change_pk, older.undone_by) == ("undo", undone.change_pk, undone.change_pk)


def test_scores_and_flags_move_with_their_images(database: Database, store: Any, do: Any) -> None:
    archive = Archive(database, store)
    calm, urgent = archive.add(), archive.add()
    archive.score(calm, 0.1)
    archive.score(urgent, 0.95, due_min=10, Effusion=0.9)
    due = rows(database, "SELECT due_at FROM worklist WHERE study_uid = %s", urgent.header.study_uid)
    do(lambda c: moving.merge_studies(c, urgent.header.study_uid, calm.header.study_uid, BY))
    with database.autocommit() as connection:
        item = worklist.item(connection, calm.header.study_uid)
    assert (item.flagged, [found["name"] for found in item.findings], [(item.due_at,)]) == (
        True, ["Abnormal", "Effusion"], due,
    )  # fmt: skip


def test_a_score_of_an_image_that_was_moved_meanwhile_shows_at_its_new_study(
    database: Database, store: Any, do: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(database, store)
    target, moved = archive.add(not_eligible="a lateral"), archive.add()
    with database.autocommit() as connection:
        stale = rows(database, "SELECT study_fk FROM instances WHERE sop_uid = %s", moved.header.sop_uid)[0][0]
    do(lambda c: moving.merge_studies(c, moved.header.study_uid, target.header.study_uid, BY))
    score = archive.score(moved, 0.9)
    assert rows(database, "SELECT study_fk FROM scores") != [(stale,)]
    with database.autocommit() as connection:
        assert worklist.item(connection, target.header.study_uid).flagged
    assert score.flagged
    assert contradictions(database) == []


def test_hidden_and_moved_go_together(database: Database, two_patients: None, do: Any) -> None:
    do(lambda c: removal.remove(c, "delete", Scope(study_uid="1.1"), BY, grace=None))
    do(lambda c: moving.merge_studies(c, "1.1", "2.1", BY))
    assert "1.1.1.1" not in visible(database)
    do(lambda c: removal.restore(c, Scope(study_uid="2.1"), BY))
    assert visible(database)["1.1.1.1"] == ("2.1", "1.1.1")
