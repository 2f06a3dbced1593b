"""How many rows a search touches among thousands of studies: counted, not timed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pytest
from large import filled, touched

from storage import planning, search
from storage.attributes import BY_KEYWORD, Level
from storage.criteria import Condition, Dates, Match, Names, Patterns, Query, Texts
from storage.database import Database

COUNT = 6_000

# Two instances in one series of each study; 40 % are named Nguyễn, one in 2,000 Xzq; 20 studies a day.
FILL = """
INSERT INTO patients (patient_key, patient_id, issuer, name, sex)
    SELECT E'\\\\P' || n, 'P' || n, '', '', '' FROM generate_series(1, %(count)s) AS n;
INSERT INTO studies (study_uid, patient_fk, patient_id, patient_name, patient_name_key, patient_sex, patient_age,
        study_date, study_time, accession_number, study_id, description, referring_physician, institution_name,
        timezone_offset, site, requested_priority, modalities)
    SELECT '1.' || n, patient_pk, patient_id, replace(key, ' ', '^'), key, '', '', date '2026-01-01' + n / 20, '',
        'A' || n, '', '', '', '', '', '', 'routine', ARRAY[CASE WHEN n %% 200 = 0 THEN 'MG' ELSE 'DX' END]
    FROM patients, LATERAL (SELECT substr(patient_id, 2)::int AS n) AS x, LATERAL (SELECT
        CASE WHEN n %% 5 < 2 THEN 'nguyen' ELSE 'tran' END || CASE WHEN n %% 3 = 0 THEN ' van' ELSE ' thi' END ||
        CASE WHEN n %% 2000 = 0 THEN ' xzq' WHEN n %% 100 = 0 THEN ' anh' ELSE ' an' END AS key) AS y;
INSERT INTO name_words (word, study_fk, words, study_date)
    SELECT unnest(string_to_array(patient_name_key, ' ')), study_pk, patient_name_key, study_date FROM studies;
INSERT INTO series (series_uid, study_fk, modality, description, body_part, laterality, protocol_name, series_time,
        pps_start_time, performing_physician, station_name, manufacturer, manufacturer_model, institution_name)
    SELECT '2.' || study_pk, study_pk, modalities[1], '', '', '', '', '', '', '', '', '', '', '' FROM studies;
INSERT INTO instances (sop_uid, series_fk, study_fk, sop_class, transfer_syntax, photometric, view_position,
        image_type, content_time, acquisition_time, object_key, object_size, dataset_offset, sha256, source_aet,
        source_address, urgency, triage)
    SELECT '3.' || series_pk || '.' || n, series_pk, study_fk, '1.2', '1.2.1', '', '', '', '', '',
        series_pk || '-' || n, 1, 1, '', '', '', 0, 'scored' FROM series, generate_series(1, 2) AS n;
"""


@pytest.fixture(scope="module")
def large(postgres: str, migrated_template: str) -> Iterator[Database]:
    """A database with `COUNT` studies, to be read only."""
    with filled(postgres, migrated_template, "search_large", FILL, count=COUNT) as database:
        yield database


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """In proportion to the smaller table."""
    monkeypatch.setattr(planning, "_MOST", 400)
    monkeypatch.setattr(planning, "_COMMON", 40)
    monkeypatch.setattr(planning, "_SAMPLE", 100)
    monkeypatch.setattr(planning, "_CHEAP_US", 200)
    monkeypatch.setattr(planning, "_PAGE", 20)


def on(keyword: str, match: Match) -> Condition:
    return Condition(BY_KEYWORD[keyword], match)


DAY = Dates(dt.date(2026, 5, 1), dt.date(2026, 5, 1))
MONTH = Dates(dt.date(2026, 5, 1), dt.date(2026, 5, 31))
ASKED: list[tuple[Condition, ...]] = [
    (),
    (on("PatientID", Texts(("P77",))),),
    (on("PatientID", Patterns(("P77*",))),),
    (on("AccessionNumber", Texts(("A77", "A78"))),),
    (on("StudyInstanceUID", Texts(("1.77",))),),
    (on("SeriesInstanceUID", Texts(("2.77",))),),
    (on("SOPInstanceUID", Texts(("3.77.1",))),),
    (on("StudyDate", DAY),),
    (on("StudyDate", MONTH),),
    (on("ModalitiesInStudy", Texts(("DX",))),),
    (on("ModalitiesInStudy", Texts(("MG",))),),
    (on("ModalitiesInStudy", Texts(("MG",))), on("StudyDate", MONTH)),
    *(
        (on("PatientName", Names((name,), fuzzy)), *dates)
        for name, fuzzy in (
            ("nguyen", True), ("xzq", True), ("xzq nguyen", True), ("an nguyen van", True), ("nobody", True),
            ("nguyen*", False), ("nguyen^van*", False), ("nguyen^van^an", False), ("*^xzq", False), ("n*^van", False),
        )
        for dates in ((), (on("StudyDate", DAY),), (on("StudyDate", MONTH),))
    ),
]  # fmt: skip


@pytest.mark.parametrize("level", [Level.STUDY, Level.SERIES, Level.IMAGE])
@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: " ".join(f"{c.attribute.keyword} {c.match}" for c in asked))
def test_a_page_touches_a_small_part_of_the_index(large: Database, asked: tuple[Condition, ...], level: Level) -> None:
    with large.transaction() as connection:
        scanned, fetched = touched(connection, lambda: search.keys(connection, Query(level, asked), limit=20))
    assert scanned == 0
    assert fetched < COUNT / 5


def test_counting_touches_no_rows(large: Database) -> None:
    """Instances and SOP classes are counted inside the index."""
    counts = [BY_KEYWORD[keyword] for keyword in ("NumberOfStudyRelatedInstances", "SOPClassesInStudy")]
    with large.transaction() as connection:
        keys = search.keys(connection, Query(Level.STUDY), limit=100)
        scanned, fetched = touched(connection, lambda: list(search.rows(connection, Level.STUDY, keys, counts)))
    assert scanned == 0
    assert fetched <= 300  # 100 studies, and 100 series twice
