from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from storage import planning, studies
from storage.database import Database
from storage.studies import Indexer, Received

Make = Callable[..., Received]

NAMES = {"A": "Nguyễn^Văn An", "B": "NGUYEN^VAN AN", "C": "Trần^An Bình"}
STUDIES: list[tuple[str, str, dt.date | None, str]] = [
    ("1.1", "A", dt.date(2026, 1, 1), "DX"),
    ("1.2", "A", dt.date(2026, 1, 3), "CT"),
    ("1.3", "B", dt.date(2026, 1, 2), "CT"),
    ("1.4", "C", None, "DX"),
    ("1.5", "C", dt.date(2025, 1, 1), ""),
]


@pytest.fixture
def filled(database: Database, make_received: Make) -> Database:
    """A database with `STUDIES`; the first has a second series."""
    indexer = Indexer(database)
    for uid, patient, date, modality in [*STUDIES, ("1.1", "A", None, "SR")]:
        over = {"study_uid": uid, "patient_id": patient, "patient_name": NAMES[patient], "study_date": date}
        indexer.index([make_received(**over, modality=modality, accession_number=f"ACC{uid}")])
    return database


@pytest.mark.parametrize("cheap", [True, False], ids=["at once", "by estimate"])
@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, ["1.2", "1.3", "1.1", "1.5", "1.4"]),
        ({"limit": 2}, ["1.2", "1.3"]),
        ({"patient_id": "A"}, ["1.2", "1.1"]),
        ({"patient_id": "a"}, []),
        ({"accession": "ACC1.3"}, ["1.3"]),
        ({"study_uids": ["1.5", "1.1", "9.9"]}, ["1.1", "1.5"]),
        ({"study_uids": []}, []),
        ({"name": "an nguyễn"}, ["1.2", "1.3", "1.1"]),
        ({"name": "an"}, ["1.2", "1.3", "1.1", "1.5", "1.4"]),
        ({"name": "binh tr"}, ["1.5", "1.4"]),
        ({"name": "guyen"}, []),
        ({"modality": "CT"}, ["1.2", "1.3"]),
        ({"modality": "SR"}, ["1.1"]),
        ({"modality": "DX"}, ["1.1", "1.4"]),
        ({"date_from": dt.date(2026, 1, 2)}, ["1.2", "1.3"]),
        ({"date_to": dt.date(2026, 1, 1)}, ["1.1", "1.5"]),
        ({"date_from": dt.date(2026, 1, 1), "date_to": dt.date(2026, 1, 2), "name": "nguyen"}, ["1.3", "1.1"]),
        ({"patient_id": "A", "modality": "CT", "name": "van", "accession": "ACC1.2"}, ["1.2"]),
        ({"patient_id": "\0", "accession": "\ud800", "study_uids": ["\0"], "modality": "\0"}, []),
    ],
)
def test_studies_are_found_latest_first(
    filled: Database, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], found: list[str], cheap: bool
) -> None:
    if not cheap:  # as if there were many of all
        monkeypatch.setattr(planning, "_CHEAP_US", 0)
        monkeypatch.setattr(planning, "_COMMON", 2)
        monkeypatch.setattr(planning, "_MOST", 2)
    with filled.autocommit() as connection:
        assert [study.study_uid for study in studies.find_studies(connection, **asked)] == found


def test_a_study_tells_what_is_below_it(database: Database, make_received: Make) -> None:
    over = {"study_uid": "1.1", "patient_id": "A", "issuer": "HUE"}
    for n, modality in enumerate(["CT", "CT", "SR"]):
        received = make_received(**over, series_uid=f"1.2.{n // 2}", modality=modality, instance_number=9 - n)
        Indexer(database).index([received])
    with database.autocommit() as connection:
        study = studies.study(connection, "1.1")
        series = studies.series_of(connection, "1.1")
        instances = studies.instances_of(connection, "1.1")
        assert studies.instances_of(connection, "1.1", "1.2.0") == instances[:2]
        assert studies.instances_of(connection, "1.1", "1.2.9") == []
    assert (study.modalities, study.series_count, study.instance_count, study.issuer) == (["CT", "SR"], 2, 3, "HUE")
    assert [(each.series_uid, each.modality, each.instance_count) for each in series] == [
        ("1.2.0", "CT", 2),
        ("1.2.1", "SR", 1),
    ]
    assert [(each.series_uid, each.instance_number, each.modality) for each in instances] == [
        ("1.2.0", 8, "CT"), ("1.2.0", 9, "CT"), ("1.2.1", 7, "SR"),
    ]  # fmt: skip
