"""Answers of QIDO-RS straight from rows say what answers by elements say."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable

import httpx
import pytest
from archive import Archive

from api.dicomweb.attributes import json_model, row_json
from pacs import answers
from pacs.query import Parsed
from storage import search
from storage.attributes import ATTRIBUTES, Level
from storage.criteria import Query
from storage.database import Connection, Database
from storage.studies import Indexer, Received


@pytest.fixture
def filled(database: Database, make_received: Callable[..., Received]) -> Database:
    """Three studies: with nearly nothing, with names in three scripts and several values, with numbers."""
    given = [
        {
            "patient_name": "",
            "study_date": None,
            "study_time": "",
            "accession_number": "",
            "rows": None,
            "modality": "",
        },
        {"patient_name": "Yamada^Tarou=山田^太郎=やまだ^たろう", "other_patient_ids": ("X1", "X2"), "patient_sex": ""},
        {"image_type": "ORIGINAL\\PRIMARY\\\\AXIAL", "frames": 7, "content_date": dt.date(2026, 1, 2)},
    ]
    Indexer(database).index([make_received(**one) for one in given])
    return database


@pytest.mark.parametrize("level", Level, ids=lambda level: level.name)
def test_both_ways_give_the_same(filled: Database, level: Level) -> None:
    wanted = tuple(one for one in ATTRIBUTES if one.level <= level)
    found = answers.find(filled, Parsed(Query(level), wanted), limit=10)
    assert found.attributes == wanted
    written = row_json(wanted, ())
    by_rows = [json.loads(written(row)) for row in found.rows()]
    assert by_rows == [json_model(match) for match in found]
    assert [list(one) for one in by_rows] == [sorted(one) for one in by_rows]
    assert len(by_rows) == 3


def test_what_is_wanted_only_if_known_is_left_out_where_it_is_not(filled: Database) -> None:
    wanted = tuple(one for one in ATTRIBUTES if one.keyword in {"Rows", "SOPInstanceUID"})
    found = answers.find(filled, Parsed(Query(Level.IMAGE), wanted), limit=10)
    rows = next(one.tag for one in wanted if one.keyword == "Rows")
    written = row_json(wanted, {rows})
    assert sorted(len(json.loads(written(row))) for row in found.rows()) == [1, 2, 2]


def test_dates_in_another_zone_are_no_rows(filled: Database) -> None:
    found = answers.find(filled, Parsed(Query(Level.STUDY, zone=420), (ATTRIBUTES[0],)), limit=10)
    assert found.attributes is None


def test_a_page_does_not_wait_for_its_total(
    archive: Archive, http: httpx.Client, make_received: Callable[..., Received], monkeypatch: pytest.MonkeyPatch
) -> None:
    Indexer(archive.database).index([make_received() for _ in range(3)])
    counted = http.get("/dicom-web/studies", params={"limit": 2})
    assert (counted.headers["X-Total-Count"], counted.headers["X-Total-Count-Relation"]) == ("3", "eq")

    def slow(connection: Connection, _query: Query, **_: int) -> None:
        connection.execute("SELECT pg_sleep(20)")

    monkeypatch.setattr(search, "total", slow)
    start = time.monotonic()
    answer = http.get("/dicom-web/studies", params={"limit": 2})
    assert time.monotonic() - start < 10
    assert len(answer.json()) == 2
    assert (answer.headers["X-Total-Count"], answer.headers["X-Total-Count-Relation"]) == ("2", "gte")
