"""Searches against a plain reading of PS3.4 C.2.2.2 in Python: any query, any of the three ways, the same matches."""

from __future__ import annotations

import datetime as dt
import itertools
import random
import re
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from storage import names, search
from storage.attributes import BY_KEYWORD, PAIRS, Kind, Level
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
from storage.studies import Indexer

NAMES = [
    "Nguyễn^Văn An", "NGUYEN^VAN AN", "Nguyễn^Thị Ánh", "Trần^An^Bình", "Trần An", "TRAN^AN", "An^An Văn^^BS", "O'Brien^Ann",
    "Đỗ^Thị Đào=杜^桃", "Yamada^Tarou=山田^太郎=やまだ^たろう", "", "Lê", "Lê^",
]  # fmt: skip
DAYS = [None, *(dt.date(2026, 1, 1) + dt.timedelta(days=n) for n in range(5))]
TIMES = ["", "000000", "0930", "101530", "10:15:30", "235959.5", "23", "99"]
ZONES = ["", "+0700", "-0500", "+0000", "+7"]
PEOPLE = ["P1", "P10", "P2", "p1", "a_b", "a%b", "x*y"]
ACCESSIONS = ["", "A1", "A12", "B*"]
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
LEVELS = {"patient": Level.PATIENT, "study": Level.STUDY, "series": Level.SERIES, "image": Level.IMAGE}


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
        self._first_names()

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

    def _first_names(self) -> None:
        """A patient has name, birth date and sex as they came first, hidden or not."""

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


# ---- the oracle

FIELDS = {
    "PatientName": "patient_name", "PatientID": "patient_id", "IssuerOfPatientID": "issuer",
    "PatientBirthDate": "patient_birth_date", "PatientSex": "patient_sex", "OtherPatientIDs": "other_patient_ids",
    "OtherPatientIDsSequence": "other_patient_ids", "StudyInstanceUID": "study_uid", "StudyDate": "study_date",
    "StudyTime": "study_time", "AccessionNumber": "accession_number", "StudyID": "study_id",
    "StudyDescription": "study_description", "ReferringPhysicianName": "referring_physician",
    "SeriesInstanceUID": "series_uid", "Modality": "modality", "SeriesNumber": "series_number",
    "SeriesDescription": "series_description", "SeriesDate": "series_date", "SeriesTime": "series_time",
    "BodyPartExamined": "body_part", "SOPInstanceUID": "sop_uid", "InstanceNumber": "instance_number", "Rows": "rows",
    "SOPClassUID": "sop_class", "ImageType": "image_type",
}  # fmt: skip


def glob(pattern: str) -> re.Pattern[str]:
    return re.compile("".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern), re.DOTALL)


def time_of(sent: str) -> dt.time | None:
    digits = sent.replace(":", "")
    for form in ("%H%M%S.%f", "%H%M%S", "%H%M", "%H"):
        try:
            found = dt.datetime.strptime(digits, form)
        except ValueError:
            continue
        if len(digits.partition(".")[0]) == len(form.replace(".%f", "")):
            return found.time()
    return None


def moment_of(one: SimpleNamespace, date: str, time: str, zone: int | None) -> dt.datetime | None:
    day, at = getattr(one, date), time_of(getattr(one, time))
    if day is None:
        return None
    moment = dt.datetime.combine(day, at or dt.time())
    offset = re.fullmatch(r"([+-])(\d\d)(\d\d)", one.timezone_offset)
    if zone is None or offset is None or at is None:
        return moment
    minutes = (int(offset[2]) * 60 + int(offset[3])) * (-1 if offset[1] == "-" else 1)
    return moment + dt.timedelta(minutes=zone - minutes)


def in_range(value: Any, first: Any, last: Any) -> bool:
    return value is not None and (first is None or value >= first) and (last is None or value <= last)


def matches_text(value: str, match: Texts | Patterns) -> bool:
    if isinstance(match, Texts):
        return value in match.values
    return any(glob(pattern).fullmatch(value) for pattern in match.values)


def matches_name(value: str, match: Names) -> bool:
    if match.fuzzy:
        return any(
            all(
                any(has.startswith(word) for has in names.fold(value.replace("=", " ")).split())
                for word in names.words(asked)
            )
            for asked in match.values
        )
    return any(matches_group(value, pattern) for pattern in match.values)


def matches_group(value: str, pattern: str) -> bool:
    """Folded groups, component by component, without what is empty at the end."""
    asked, has = pattern.split("="), [*value.split("="), "", ""][:3]
    if len(asked) == 1:
        return any(
            bare(asked[0]).fullmatch(bare_text(one)) for one in (has[:1] if names.fold(pattern).isascii() else has)
        )
    return all(bare(a).fullmatch(bare_text(h)) for a, h in zip(asked, has, strict=False) if a.strip("*^ "))


def bare_text(group: str) -> str:
    return names.fold(group) + " "


def bare(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"([*?]+)", pattern)
    out = ""
    for n, part in enumerate(parts):
        if n % 2:
            out += part
            continue
        folded = names.fold(part)
        lead = " " if part and not part[0].isalnum() and out else ""
        trail = " " if part and not part[-1].isalnum() and folded else ""
        out += lead + folded + trail if folded else lead
    return glob(out.rstrip() + " " if not out.endswith("*") else out)


def value_of(one: SimpleNamespace, keyword: str, person: dict[str, Any] | None) -> Any:
    field = FIELDS[keyword]
    return person[field] if person is not None and field in person else getattr(one, field)


def holds(one: SimpleNamespace, condition: Condition, zone: int | None, person: dict[str, Any] | None) -> bool:
    attribute, match = condition.attribute, condition.match
    value = value_of(one, attribute.keyword, person)
    pair = next((pair for pair in PAIRS.values() if attribute in pair), None)
    if isinstance(match, Empty):
        return value in (None, "", ())
    if isinstance(match, Items):
        return any(all(matches_text(each, inner) for _, inner in match.matches) for each in value)  # type: ignore[arg-type]
    if isinstance(match, Names):
        return matches_name(value, match)
    if isinstance(match, Numbers):
        return value in match.values
    if isinstance(match, Texts | Patterns):
        texts = value if isinstance(value, tuple) else value.split("\\") if attribute.kind is Kind.JOINED else (value,)
        return any(matches_text(each, match) for each in texts)
    if pair is None:
        return in_range(value, match.first, match.last)
    moment = moment_of(one, *(FIELDS[each.keyword] for each in pair), zone)
    if isinstance(match, Moments):
        return in_range(moment, match.first, match.last)
    if isinstance(match, Dates):
        return in_range(moment and moment.date(), match.first, match.last)
    if zone is None:
        return in_range(time_of(value), match.first, match.last)
    return in_range(moment and moment.time(), match.first, match.last)


def expected(rows: dict[int, list[SimpleNamespace]], query: Query, people: dict[int, dict[str, Any]]) -> set[int]:
    """A row matches when all conditions of its own level and above hold, and for each level below one part has all of its."""
    found = set()
    for key, below in rows.items():
        person = people[key] if query.level is Level.PATIENT else None
        by_level = itertools.groupby(
            sorted(query.conditions, key=lambda each: max(each.attribute.level, query.level)),
            key=lambda each: max(each.attribute.level, query.level),
        )
        if all(
            any(
                all(holds(one, each, query.zone, person if level is Level.PATIENT else None) for each in asked)
                for one in below
            )
            for level, asked in ((level, list(group)) for level, group in by_level)
        ):
            found.add(key)
    return found


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
    "PatientName": st.one_of(st.builds(Names, name_patterns.map(lambda one: (one,)), st.booleans()), st.builds(Names, st.lists(name_patterns, min_size=2, max_size=2).map(tuple), st.booleans())),
    "ReferringPhysicianName": st.builds(Names, name_patterns.map(lambda one: (one,)), st.booleans()),
    "PatientID": texts(PEOPLE),
    "IssuerOfPatientID": texts(["HUE", ""]),
    "OtherPatientIDs": texts(["OLD1", "OLD3"]),
    "OtherPatientIDsSequence": st.just(Items((("PatientID", Patterns(("OLD*",))),))),
    "PatientBirthDate": st.one_of(st.builds(Dates, maybe_day, maybe_day), st.just(Empty())),
    "AccessionNumber": texts(ACCESSIONS),
    "StudyInstanceUID": st.lists(st.integers(0, 80).map(lambda n: f"1.2.{n}"), min_size=1, max_size=9).map(tuple).map(Texts),
    "SeriesInstanceUID": st.sampled_from([Texts(("1.3.1",)), Texts(("1.3.5.0", "1.3.0"))]),
    "SOPInstanceUID": st.sampled_from([Texts(("1.4.3.0.0",)), Texts(("1.4.9.0.0", "1.4.1.0.1", "1.4.1.0.0"))]),
    "StudyDate": st.one_of(st.builds(Dates, maybe_day, maybe_day), st.builds(Moments, moments, moments), st.just(Empty())),
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
    level=st.sampled_from(list(Level)),
    asked=conditions,
    zone=st.sampled_from([None, None, 0, 420, -300]),
    way=st.sampled_from(["cheapest", "walk", "keys", "names"]),
)
def test_a_search_finds_what_the_standard_says(
    archive: Any, monkeypatch: pytest.MonkeyPatch, level: Level, asked: list[Condition], zone: int | None, way: str
) -> None:
    made, database, people = archive
    query = Query(level, tuple(asked), zone)
    with monkeypatch.context() as patch, database.autocommit() as connection:
        if way != "cheapest":
            patch.setattr(search, "plan", forced(way))
        found = search.keys(connection, query, limit=1000)
        total = search.total(connection, query, at_most=10)
        page = search.keys(connection, query, limit=3, offset=2)
        rows = made.rows(level, connection)
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
