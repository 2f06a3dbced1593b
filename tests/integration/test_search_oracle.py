"""Searches against a plain reading of PS3.4 C.2.2.2 in Python: any query, any of the three ways, the same matches."""

from __future__ import annotations

import datetime as dt
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from storage import search
from storage.attributes import BY_KEYWORD, Level
from storage.criteria import (
    Condition,
    Dates,
    Empty,
    Items,
    Match,
    Moments,
    Names,
    Numbers,
    Patterns,
    Query,
    Texts,
    Times,
)
from storage.database import Connection, Database
from storage.planning import Plan
from storage.received import RequestAttributes
from storage.studies import Indexer

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from query_oracle import expected

NAMES = [
    "Nguyễn^Văn An", "NGUYEN^VAN AN", "Nguyễn^Thị Ánh", "Trần^An^Bình", "Trần An", "TRAN^AN", "An^An Văn^^BS",
    "O'Brien^Ann", "Đỗ^Thị Đào=杜^桃", "Yamada^Tarou=山田^太郎=やまだ^たろう", "", "Lê", "Lê^",
]  # fmt: skip
DAYS = [None, *(dt.date(2026, 1, 1) + dt.timedelta(days=n) for n in range(5))]
TIMES = ["", "000000", "0930", "101530", "10:15:30", "235959.5", "23", "99"]
ZONES = ["", "+0700", "-0500", "+0000", "+7"]
PEOPLE = ["P1", "P10", "P2", "p1", "a_b", "a%b", "x*y"]
ACCESSIONS = ["", "A1", "A12", "B*"]
REQUESTS = [RequestAttributes(f"S{n % 3}", f"R{n % 2}", "A1") for n in range(6)]
TEXTS = {
    "StudyID": ["", "1", "S*", "s1"],
    "StudyDescription": ["", "Ngực thẳng", "CT ngực", "ct 100%"],
    "PatientSex": ["", "M", "F"],
    "Modality": ["", "CT", "DX", "SR", "CTX"],
    "SeriesDescription": ["", "axial", "scout"],
    "BodyPartExamined": ["", "CHEST"],
    "SOPClassUID": ["1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.1.1"],
    "ImageType": ["", "ORIGINAL\\PRIMARY", "DERIVED"],
}


class Archive:
    """Rows in memory, as they went into the database."""

    def __init__(self, database: Database, make_received: Callable[..., Any]) -> None:
        dice = random.Random(7)
        self.instances: list[SimpleNamespace] = []
        indexer = Indexer(database)
        for n in range(70):
            person = dice.choice(PEOPLE)
            study = {
                "study_uid": f"1.2.{n}", "patient_id": person, "issuer": "HUE" if person == "P2" else "",
                "patient_name": dice.choice(NAMES), "patient_birth_date": dice.choice(DAYS),
                "patient_sex": dice.choice(TEXTS["PatientSex"]), "study_date": dice.choice(DAYS),
                "study_time": dice.choice(TIMES), "timezone_offset": dice.choice(ZONES),
                "accession_number": dice.choice(ACCESSIONS), "study_id": dice.choice(TEXTS["StudyID"]),
                "study_description": dice.choice(TEXTS["StudyDescription"]), "referring_physician": dice.choice(NAMES),
                "other_patient_ids": ("OLD1", "OLD2") if person == "P10" else (),
            }  # fmt: skip
            for m in range(dice.randint(1, 3)):
                series = {
                    "series_uid": f"1.3.{n}.{m}" if n % 9 else f"1.3.{m}", "modality": dice.choice(TEXTS["Modality"]),
                    "series_number": dice.choice([None, 1, 2, 30]), "body_part": dice.choice(TEXTS["BodyPartExamined"]),
                    "series_description": dice.choice(TEXTS["SeriesDescription"]),
                    "series_date": dice.choice(DAYS), "series_time": dice.choice(TIMES),
                    "request_attributes": tuple(dice.sample(REQUESTS, dice.choice([0, 1, 2]))),
                }  # fmt: skip
                for k in range(dice.randint(1, 3)):
                    image = {
                        "sop_uid": f"1.4.{n}.{m}.{k}", "instance_number": dice.choice([None, 1, 2]),
                        "rows": dice.choice([None, 512]), "sop_class": dice.choice(TEXTS["SOPClassUID"]),
                        "image_type": dice.choice(TEXTS["ImageType"]),
                    }  # fmt: skip
                    values = {**study, **series, **image}
                    assert [one.outcome for one in indexer.index([make_received(**values)])] == ["stored"]
                    self.instances.append(SimpleNamespace(**values))
        self._hide(database)

    def _hide(self, database: Database) -> None:
        """Some are hidden, each with what is above it that has nothing else."""
        for n, one in enumerate(self.instances):
            one.hidden = n % 11 == 0
        with database.transaction() as connection:
            gone = [one.sop_uid for one in self.instances if one.hidden]
            connection.execute("UPDATE instances SET hidden = true WHERE sop_uid = ANY(%s)", (gone,))
            for table, below, link in (
                ("series", "instances", "series_fk = series_pk"),
                ("studies", "series", "study_fk = study_pk"),
            ):
                connection.execute(
                    f"UPDATE {table} SET hidden = true"
                    f" WHERE NOT EXISTS (SELECT FROM {below} WHERE {link} AND NOT {below}.hidden)"
                )
        self.instances = [one for one in self.instances if not one.hidden]

    def rows(self, level: Level, connection: Connection) -> dict[int, list[SimpleNamespace]]:
        """The instances below each row of a level, by its key."""
        keys = {
            sop_uid: (patient, study, series, image)
            for sop_uid, patient, study, series, image in connection.execute(
                "SELECT sop_uid, patient_fk, study_pk, series_pk, instance_pk FROM instances"
                " JOIN series ON series_pk = series_fk JOIN studies ON study_pk = series.study_fk"
            )
        }
        found: dict[int, list[SimpleNamespace]] = {}
        for one in self.instances:
            found.setdefault(keys[one.sop_uid][level - 1], []).append(one)
        return found


@pytest.fixture(scope="module")
def archive(
    postgres: str, migrated_template: str, make_received: Callable[..., Any]
) -> Iterator[tuple[Archive, Database, dict[int, dict[str, Any]]]]:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE search_oracle TEMPLATE {migrated_template}")
    database = Database(make_conninfo(postgres, dbname="search_oracle"))
    made = Archive(database, make_received)
    with database.autocommit() as connection:
        people = {
            pk: {"patient_name": name, "patient_birth_date": born, "patient_sex": sex}
            for pk, name, born, sex in connection.execute("SELECT patient_pk, name, birth_date, sex FROM patients")
        }
    yield made, database, people
    database.close()
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP DATABASE search_oracle WITH (FORCE)")


# ---- queries

days = st.sampled_from(DAYS[1:])
maybe_day = st.sampled_from(DAYS)
clocks = st.sampled_from([dt.time.min, dt.time(9, 30), dt.time(10, 15, 30), dt.time(23, 59, 59, 999999), dt.time.max])
moments = st.one_of(st.none(), st.builds(dt.datetime.combine, days, clocks))
_letters = st.sampled_from(
    ["an", "Văn", "nguyen", "NGUYỄN", "tr", "đ", "o", "br", "Bình", "^", " ", "^^", "*", "?", "'", "太", "山田"]
)
name_patterns = st.one_of(
    st.sampled_from([*filter(None, NAMES), "nguyen*", "*an", "tran^*", "?guyen*", "=山田*", "Yamada*==", "*=*=や*"]),
    st.lists(_letters, min_size=1, max_size=5).map("".join),
)


def texts(values: Sequence[str]) -> st.SearchStrategy[Match]:
    values = [value for value in values if value]
    some = st.lists(st.sampled_from(values), min_size=1, max_size=2).map(tuple)
    patterns = st.sampled_from([*values, "?", "?*", "*1", "A*", "P?", "a_*", "*%*", "CT*"])
    return st.one_of(
        some.map(Texts), st.lists(patterns, min_size=1, max_size=2).map(tuple).map(Patterns), st.just(Empty())
    )


def on(keyword: str, matches: st.SearchStrategy[Match]) -> st.SearchStrategy[Condition]:
    return matches.map(lambda match: Condition(BY_KEYWORD[keyword], match))


def times(first: dt.time, last: dt.time) -> Times:
    return Times(min(first, last), max(first, last))


CONDITIONS = {
    "PatientName": st.builds(Names, st.lists(name_patterns, min_size=1, max_size=2).map(tuple), st.booleans()),
    "ReferringPhysicianName": st.builds(Names, name_patterns.map(lambda one: (one,)), st.booleans()),
    "PatientID": texts(PEOPLE),
    "IssuerOfPatientID": texts(["HUE", ""]),
    "OtherPatientIDs": texts(["OLD1", "OLD3"]),
    "OtherPatientIDsSequence": st.just(Items((("PatientID", Patterns(("OLD*",))),))),
    "RequestAttributesSequence": st.one_of(
        st.dictionaries(
            st.sampled_from(["ScheduledProcedureStepID", "RequestedProcedureID"]), texts(["S1", "S2", "R0"]), min_size=1
        ).filter(lambda one: Empty() not in one.values()).map(lambda one: Items(tuple(one.items()))),
        st.just(Empty()),
    ),
    "PatientBirthDate": st.one_of(st.builds(Dates, maybe_day, maybe_day), st.just(Empty())),
    "AccessionNumber": texts(ACCESSIONS),
    "StudyInstanceUID": st.lists(st.sampled_from([f"1.2.{n}" for n in range(80)]), min_size=1, max_size=9).map(
        lambda uids: Texts(tuple(uids))
    ),
    "SeriesInstanceUID": st.sampled_from([Texts(("1.3.1",)), Texts(("1.3.5.0", "1.3.0"))]),
    "SOPInstanceUID": st.sampled_from([Texts(("1.4.3.0.0",)), Texts(("1.4.9.0.0", "1.4.1.0.1", "1.4.1.0.0"))]),
    "StudyDate": st.one_of(
        st.builds(Dates, maybe_day, maybe_day), st.builds(Moments, moments, moments), st.just(Empty())
    ),
    "StudyTime": st.builds(times, clocks, clocks),
    "SeriesDate": st.one_of(st.builds(Dates, maybe_day, maybe_day), st.builds(Moments, moments, moments)),
    "SeriesTime": st.builds(times, clocks, clocks),
    "SeriesNumber": st.sampled_from([Numbers((1,)), Numbers((2, 30)), Empty()]),
    "InstanceNumber": st.sampled_from([Numbers((1,)), Numbers((5,)), Empty()]),
    "Rows": st.sampled_from([Numbers((512,)), Empty()]),
    **{keyword: texts(values) for keyword, values in TEXTS.items()},
}  # fmt: skip
conditions = st.lists(
    st.one_of([on(keyword, matches) for keyword, matches in CONDITIONS.items()]),
    max_size=4,
    unique_by=lambda one: one.attribute.keyword,
)


def forced(way: str) -> Callable[..., Plan]:
    def plan(_connection: Connection, given: Sequence[Any], _date: Any) -> Plan:
        words = tuple(each for each in given if each.word_scan)
        indexed = [each for each in given if each.candidates and not each.word_scan]
        if way == "names" and words:
            return Plan("names", words)
        return Plan("keys", (indexed[0],)) if way == "keys" and indexed else Plan("walk")

    return plan


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    query=st.builds(
        Query, st.sampled_from(list(Level)), conditions.map(tuple), st.sampled_from([None, None, 0, 420, -300])
    ),
    way=st.sampled_from(["cheapest", "walk", "keys", "names"]),
)
def test_a_search_finds_what_the_standard_says(
    archive: Any, monkeypatch: pytest.MonkeyPatch, query: Query, way: str
) -> None:
    made, database, people = archive
    with monkeypatch.context() as patch, database.autocommit() as connection:
        if way != "cheapest":
            patch.setattr(search, "plan", forced(way))
        found = search.keys(connection, query, limit=1000)
        total = search.total(connection, query, at_most=10)
        page = search.keys(connection, query, limit=3, offset=2)
        rows = made.rows(query.level, connection)
    assert len(set(found)) == len(found)
    assert set(found) == expected(rows, query, people)
    assert total == (min(len(found), 10), len(found) <= 10)
    assert page == found[2:5]


@pytest.mark.parametrize("level", [Level.STUDY, Level.SERIES, Level.IMAGE])
def test_the_latest_study_comes_first(archive: Any, level: Level) -> None:
    made, database, _ = archive
    with database.autocommit() as connection:
        rows = made.rows(level, connection)
        dates = [rows[key][0].study_date for key in search.keys(connection, Query(level), limit=1000)]
    known = [one for one in dates if one is not None]
    assert known == sorted(known, reverse=True)
    assert dates[len(known) :] == [None] * (len(dates) - len(known))
