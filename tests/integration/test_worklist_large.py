"""How many rows a page touches among thousands of studies: counted, not timed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from large import filled, touched

from storage import matching, studies, worklist
from storage.database import Database

COUNT = 6_000

# 40 % are named Nguyễn; modality MG is rare, US stands only at the end of the list.
FILL = """
INSERT INTO patients (patient_key, patient_id, issuer, name, sex)
    SELECT E'\\\\P' || n, 'P' || n, '', '', '' FROM generate_series(1, %(count)s) AS n;
INSERT INTO studies (study_uid, patient_fk, patient_id, patient_name, patient_name_key, patient_sex, patient_age,
        study_date, study_time, accession_number, study_id, description, referring_physician, institution_name,
        timezone_offset, site, requested_priority, modalities)
    SELECT '1.' || n, patient_pk, patient_id, '', CASE WHEN n %% 5 < 2 THEN 'nguyen' ELSE 'tran' END ||
        CASE WHEN n %% 3 = 0 THEN ' van' ELSE ' thi' END || CASE WHEN n %% 2000 = 0 THEN ' xzq' ELSE ' an' END,
        '', '', date '2026-01-01' + n / 20, '', 'A' || n, '', '', '', '', '',
        CASE WHEN n %% 100 = 0 THEN 'HUE' ELSE 'HN' END, 'routine',
        ARRAY[CASE WHEN n > %(count)s - 200 THEN 'US' WHEN n %% 200 = 0 THEN 'MG' ELSE 'DX' END]
    FROM patients, LATERAL (SELECT substr(patient_id, 2)::int AS n) AS x;
INSERT INTO name_words (word, study_fk, words)
    SELECT unnest(string_to_array(patient_name_key, ' ')), study_pk, patient_name_key FROM studies;
INSERT INTO series (series_uid, study_fk, modality, description, body_part, laterality, protocol_name, series_time,
        pps_start_time, performing_physician, station_name, manufacturer, manufacturer_model, institution_name)
    SELECT '2.' || study_pk, study_pk, modalities[1], '', '', '', '', '', '', '', '', '', '', '' FROM studies;
INSERT INTO worklist (study_fk, study_uid, arrived_at, latest_due_at, due_at, status, flagged, site, study_date,
        priority, modalities)
    SELECT study_pk, study_uid, study_date, study_date, study_date,
        CASE WHEN study_pk %% 1000 = 0 THEN 'failed' ELSE 'scored' END, study_pk %% 10 = 0, site, study_date, 'routine',
        modalities FROM studies;
"""


@pytest.fixture(scope="module")
def large(postgres: str, migrated_template: str) -> Iterator[Database]:
    """A database with `COUNT` open studies, to be read only."""
    with filled(postgres, migrated_template, "worklist_large", FILL, count=COUNT) as database:
        yield database


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """In proportion to the smaller table."""
    monkeypatch.setattr(matching, "_RARE", 300)


ASKED: list[dict[str, Any]] = [
    {},
    {"flagged": True},
    {"status": "failed"},
    {"site": "HUE"},
    {"site": "nowhere"},
    {"modality": "DX"},
    {"modality": "MG"},
    {"modality": "US"},
    {"modality": "none"},
    {"date_from": dt.date(2026, 10, 1)},
    {"date_from": dt.date(2026, 5, 1), "date_to": dt.date(2026, 5, 2)},
    {"name": "nguyen"},
    {"name": "nguyen van"},
    {"name": "nguyen van an"},
    {"name": "xzq"},
    {"name": "nguyen xzq"},
    {"name": "nobody"},
    {"patient_id": "P77"},
    {"accession": "A77"},
    {"name": "nguyen", "flagged": True, "site": "HUE", "date_from": dt.date(2026, 3, 1)},
]


@pytest.mark.parametrize("mode", ["triage", "arrival"])
@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_a_page_touches_a_small_part_of_the_list(large: Database, asked: dict[str, Any], mode: Any) -> None:
    with large.transaction() as connection:
        scanned, fetched = touched(connection, lambda: worklist.page(connection, mode=mode, **asked))
    assert scanned == 0
    assert fetched < COUNT / 5


def test_a_deep_page_touches_no_more_than_the_first(large: Database) -> None:
    with large.transaction() as connection:
        deep = worklist._encode("due_at", worklist.item(connection, f"1.{COUNT - 100}"))
        first = touched(connection, lambda: worklist.page(connection, mode="triage"))
        later = touched(connection, lambda: worklist.page(connection, mode="triage", after=deep))
    assert later == first


@pytest.mark.parametrize("asked", [a for a in ASKED if not {"flagged", "status", "site"} & a.keys()], ids=str)
def test_a_search_touches_a_small_part_of_the_index(large: Database, asked: dict[str, Any]) -> None:
    with large.transaction() as connection:
        scanned, fetched = touched(connection, lambda: studies.find_studies(connection, **asked))
    assert scanned == 0
    assert fetched < COUNT / 5
