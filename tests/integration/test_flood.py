"""The bench's made-up index: rows as ingest would have written them, found by the API."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from bench import flood
from storage import names, studies
from storage.database import Database
from storage.studies import Indexer

STUDIES = 1_000


@pytest.fixture
def filled(database: Database, conninfo: str) -> Database:
    """A database with `STUDIES`."""
    flood.fill(conninfo, STUDIES, quiet=True)
    return database


def _rows(database: Database, sql: str) -> list[Any]:
    with database.autocommit() as connection:
        return connection.execute(sql.encode()).fetchall()


def _one(database: Database, sql: str) -> Any:
    return _rows(database, sql)[0]


def test_there_are_as_many_rows_as_asked_and_no_level_is_empty(filled: Database) -> None:
    counted = "SELECT count(*), min(study_date), max(study_date) FROM studies"
    assert _one(filled, counted) == (STUDIES, dt.date(2026, 6, 21), dt.date(2026, 6, 30))
    assert 1.8 < _one(filled, "SELECT count(*) FROM instances")[0] / STUDIES < 2.3
    assert _one(filled, "SELECT count(*) FROM patients")[0] == STUDIES * 2 // 5
    empty = (
        "SELECT (SELECT count(*) FROM studies WHERE NOT EXISTS (SELECT FROM series WHERE study_fk = study_pk)),"
        " (SELECT count(*) FROM series WHERE NOT EXISTS (SELECT FROM instances WHERE series_fk = series_pk)),"
        " (SELECT count(*) FROM instances JOIN series ON series_pk = series_fk"
        "  WHERE instances.study_fk <> series.study_fk)"
    )
    assert _one(filled, empty) == (0, 0, 0)


def test_names_are_folded_as_ingest_folds_them(filled: Database) -> None:
    found = _rows(
        filled,
        "SELECT patient_name, patient_name_key, (SELECT array_agg(word ORDER BY word) FROM name_words"
        " WHERE study_fk = study_pk AND words = patient_name_key) FROM studies",
    )
    for name, key, words in found:
        assert key == " ".join(names.words(name))
        assert words == sorted(names.words(name))
    assert len({key for _, key, _ in found}) > STUDIES // 10


def test_a_returning_patient_keeps_name_and_birth_date(filled: Database) -> None:
    different = _one(
        filled,
        "SELECT count(*) FROM studies AS s JOIN patients AS p ON patient_pk = patient_fk"
        " WHERE (s.patient_id, s.patient_name, s.patient_birth_date, s.patient_sex)"
        " IS DISTINCT FROM (p.patient_id, p.name, p.birth_date, p.sex)",
    )
    assert different == (0,)
    assert _one(filled, "SELECT max(n) FROM (SELECT count(*) AS n FROM studies GROUP BY patient_fk) AS x")[0] > 3


def test_keys_and_indexes_stand_as_the_migrations_made_them(
    filled: Database, migrated_template: str, postgres: str
) -> None:
    sql = (
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' UNION ALL"
        " SELECT conrelid::regclass || conname || pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace ORDER BY 1"
    )
    with psycopg.connect(postgres, dbname=migrated_template) as connection:
        expected = connection.execute(sql.encode()).fetchall()
    assert _rows(filled, sql) == expected


def test_worklist_has_the_latest_studies_only(filled: Database) -> None:
    is_open = "SELECT count(*), min(study_fk) FROM worklist WHERE state = 'open'"
    assert _one(filled, is_open) == (STUDIES // 10, STUDIES - STUDIES // 10 + 1)


def test_ingest_goes_on_behind_the_rows(filled: Database, make_received: Any) -> None:
    known = _one(filled, "SELECT study_uid, patient_id, series_uid FROM studies JOIN series ON study_fk = study_pk")
    more = make_received(study_uid=known[0], patient_id=known[1], series_uid=known[2])
    outcomes = Indexer(filled).index([make_received(), more])
    assert [outcome.outcome for outcome in outcomes] == ["stored", "stored"]
    assert _one(filled, "SELECT count(*) FROM studies") == (STUDIES + 1,)


def test_api_and_dicomweb_find_them_by_every_key(archive: Any, http: httpx.Client, conninfo: str) -> None:
    flood.fill(conninfo, STUDIES, quiet=True)
    with archive.database.autocommit() as connection:
        asked = studies.find_studies(connection, limit=5)[3]
    keys: list[dict[str, Any]] = [
        {"patient_id": asked.patient_id},
        {"accession": asked.accession_number},
        {"name": names.fold(asked.patient_name)},
        {"date_from": asked.study_date, "date_to": asked.study_date},
    ]
    for key in keys:
        items = http.get("/api/studies", params={**key, "limit": 200}).json()["items"]
        found = next(item for item in items if item["study_uid"] == asked.study_uid)
        assert (found["series_count"], found["instance_count"]) == (asked.series_count, asked.instance_count)
        assert found["instance_count"] >= 1
    answer = http.get(
        "/dicom-web/studies", params={"PatientID": asked.patient_id, "AccessionNumber": asked.accession_number}
    )
    (match,) = answer.json()
    assert match["0020000D"]["Value"] == [asked.study_uid]
    assert match["00100010"]["Value"] == [{"Alphabetic": asked.patient_name}]
    assert match["00201206"]["Value"] == [asked.series_count]
    assert match["00201208"]["Value"] == [asked.instance_count]


def test_a_folder_is_made_once_for_a_schema(fast_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = flood.flooded(fast_path / "flood", 50)
    made = json.loads((folder / "flood.json").read_text())
    assert "VACUUM" in capsys.readouterr().out
    flood.flooded(folder, 50)
    assert capsys.readouterr().out == ""
    older = {**made, "migrations": {**made["migrations"], "0001_pre.sql": "another"}}
    (folder / "flood.json").write_text(json.dumps(older))
    flood.flooded(folder, 50)
    assert "VACUUM" in capsys.readouterr().out
    assert json.loads((folder / "flood.json").read_text()) == made
