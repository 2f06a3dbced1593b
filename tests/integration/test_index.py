"""What a batch of received instances becomes in the index."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import psycopg
import pytest

from storage import names, set_aside, studies, worklist
from storage.database import Database
from storage.errors import DatabaseUnavailable, NotFound
from storage.received import RequestAttributes
from storage.studies import Indexed, Indexer, InstanceHeader, Received, index_instances

Make = Callable[..., Received]
STORED = Indexed("stored", True)
DUPLICATE = Indexed("duplicate", False)


def rows(database: Database, sql: str) -> list[tuple[Any, ...]]:
    with database.autocommit() as connection:
        return connection.execute(sql).fetchall()


def count(database: Database, table: str) -> int:
    return int(rows(database, f"SELECT count(*) FROM {table}")[0][0])


@pytest.fixture
def full_header(make_header: Callable[..., InstanceHeader]) -> InstanceHeader:
    """A header with a different value in each field."""
    values: dict[str, Any] = {}
    for n, field in enumerate(fields(InstanceHeader), 1):
        kind = str(field.type)
        if "UID" in kind:
            continue
        if "date" in kind:
            values[field.name] = dt.date(2020, 1, 1) + dt.timedelta(days=n)
        elif "int" in kind:
            values[field.name] = n
        elif field.name == "request_attributes":
            values[field.name] = (RequestAttributes("SPS1", "RP1", "A1"), RequestAttributes("", "RP2", ""))
        elif "tuple" in kind:
            values[field.name] = ("OLD1", "OLD2")
        else:
            values[field.name] = f"v{n}"
    return make_header(**values)


def test_every_header_field_is_kept(database: Database, make_received: Make, full_header: InstanceHeader) -> None:
    received = make_received(header=full_header)
    assert Indexer(database).index([received]) == [STORED]
    with database.autocommit() as connection:
        study = studies.study(connection, full_header.study_uid)
        (series,) = studies.series_of(connection, full_header.study_uid)
        instance = studies.instance(connection, full_header.sop_uid)
    kept = {name: getattr(record, name) for record in (instance, series, study) for name in record.__slots__}
    renamed = {"study_description": study.description, "series_description": series.description}
    own = {"requested_priority", "other_patient_ids", "request_attributes"}
    for field in fields(InstanceHeader):
        if field.name not in own:
            assert {**kept, **renamed}[field.name] == getattr(full_header, field.name), field.name
    assert study.requested_priority == "routine"
    assert rows(database, "SELECT other_ids FROM patients") == [(["OLD1", "OLD2"],)]
    one = {"ScheduledProcedureStepID": "SPS1", "RequestedProcedureID": "RP1", "AccessionNumber": "A1"}
    assert rows(database, "SELECT request_attributes FROM series") == [([one, {"RequestedProcedureID": "RP2"}],)]
    for field in fields(Received):
        if field.name in kept and field.name != "site":
            assert kept[field.name] == getattr(received, field.name), field.name


def test_a_new_study_is_on_the_list_with_a_job_and_an_audit_entry(database: Database, make_received: Make) -> None:
    received = make_received(site="HANOI", priority="stat")
    Indexer(database).index([received])
    with database.autocommit() as connection:
        item = worklist.item(connection, received.header.study_uid)
    assert (item.status, item.state, item.due_at, item.site, item.priority) == (
        "waiting", "open", received.latest_due_at, "HANOI", "stat",
    )  # fmt: skip
    assert item.arrived_at == received.received_at
    assert rows(database, "SELECT state, urgency FROM jobs") == [("waiting", 2)]
    assert rows(database, "SELECT actor, action, study_uid FROM audit") == [
        ("MODALITY", "study.arrived", received.header.study_uid)
    ]


def test_an_instance_that_no_model_reads_is_listed_with_the_reason_and_has_no_job(
    database: Database, make_received: Make
) -> None:
    received = make_received(not_eligible="CT is not read by the model.")
    Indexer(database).index([received])
    with database.autocommit() as connection:
        item = worklist.item(connection, received.header.study_uid)
    assert (item.status, item.reason) == ("not_eligible", "CT is not read by the model.")
    assert count(database, "jobs") == 0


@pytest.mark.parametrize("same_series", [True, False])
def test_a_later_eligible_instance_makes_the_study_wait_for_a_model(
    database: Database, make_received: Make, same_series: bool
) -> None:
    indexer = Indexer(database)
    first = make_received(not_eligible="Lateral view.")
    over = {"series_uid": first.header.series_uid} if same_series else {}
    indexer.index([first])
    indexer.index([make_received(study_uid=first.header.study_uid, **over)])
    with database.autocommit() as connection:
        item = worklist.item(connection, first.header.study_uid)
    assert (item.status, item.reason, item.instance_count) == ("waiting", "", 2)


@pytest.mark.parametrize("same_series", [True, False])
def test_a_more_urgent_instance_brings_its_study_forward_and_a_later_one_never_pushes_it_back(
    database: Database, make_received: Make, same_series: bool
) -> None:
    indexer = Indexer(database)
    first = make_received()
    over: dict[str, Any] = {"study_uid": first.header.study_uid}
    if same_series:
        over["series_uid"] = first.header.series_uid
    sooner, later = (first.latest_due_at + dt.timedelta(hours=hours) for hours in (-2, 2))
    indexer.index([first])
    indexer.index([make_received(latest_due_at=sooner, priority="urgent", **over)])
    indexer.index([make_received(latest_due_at=later, priority="routine", **over)])
    with database.autocommit() as connection:
        item = worklist.item(connection, first.header.study_uid)
    assert (item.due_at, item.latest_due_at, item.priority) == (sooner, sooner, "urgent")


@pytest.mark.parametrize("same_series", [True, False])
def test_a_new_image_of_a_read_study_puts_it_back_on_the_list_but_a_resend_does_not(
    database: Database, make_received: Make, same_series: bool
) -> None:
    indexer = Indexer(database)
    first = make_received()
    indexer.index([first])
    with database.transaction() as connection:
        worklist.mark_read(connection, first.header.study_uid, "dr")
    assert indexer.index([make_received(header=first.header)]) == [DUPLICATE]
    with database.autocommit() as connection:
        assert worklist.item(connection, first.header.study_uid).state == "read"
    over = {"series_uid": first.header.series_uid} if same_series else {}
    indexer.index([make_received(study_uid=first.header.study_uid, **over)])
    with database.autocommit() as connection:
        assert worklist.item(connection, first.header.study_uid).state == "open"


def test_same_uid_and_same_bytes_is_a_duplicate_and_changes_nothing(database: Database, make_received: Make) -> None:
    received = make_received()
    resent = make_received(header=received.header)
    assert Indexer(database).index([received]) == [STORED]
    assert Indexer(database).index([resent]) == [DUPLICATE]
    assert rows(database, "SELECT object_key FROM instances") == [(received.object_key,)]
    assert count(database, "jobs") == 1


def test_same_uid_and_other_bytes_is_set_aside_once_and_the_first_stays(
    database: Database, make_received: Make
) -> None:
    indexer = Indexer(database)
    first = make_received()
    other = make_received(header=first.header, content=b"other")
    again = make_received(header=first.header, content=b"other")
    assert indexer.index([first]) == [STORED]
    assert indexer.index([other]) == [Indexed("conflict", True)]
    assert indexer.index([again]) == [Indexed("conflict", False)]
    with database.autocommit() as connection:
        (kept,) = set_aside.page(connection, "conflict")
        assert studies.instance(connection, first.header.sop_uid).sha256 == first.sha256
    assert (kept.object_key, kept.sop_uid, kept.sha256) == (other.object_key, first.header.sop_uid, other.sha256)
    assert rows(database, "SELECT count(*) FROM audit WHERE action = 'instance.conflict'") == [(1,)]


def test_the_same_batch_again_gives_the_same_outcomes(database: Database, make_received: Make) -> None:
    first = make_received()
    batch = [first, make_received(header=first.header), make_received(header=first.header, content=b"x")]
    outcomes = Indexer(database).index(batch)
    assert outcomes == [STORED, DUPLICATE, Indexed("conflict", True)]
    assert Indexer(database).index(batch) == outcomes
    assert [count(database, table) for table in ("instances", "jobs", "set_aside")] == [1, 1, 1]


def test_a_conflict_under_another_study_makes_no_empty_study(database: Database, make_received: Make) -> None:
    first = make_received()
    other = make_received(sop_uid=first.header.sop_uid, content=b"other")
    indexer = Indexer(database)
    indexer.index([first])
    assert indexer.index([other])[0].outcome == "conflict"
    assert [count(database, table) for table in ("patients", "studies", "series", "worklist")] == [1, 1, 1, 1]


def test_within_one_batch_the_first_of_a_uid_is_stored(database: Database, make_received: Make) -> None:
    first = make_received()
    batch = [
        first,
        make_received(header=first.header),
        make_received(header=first.header, content=b"x"),
        make_received(),
    ]
    assert Indexer(database).index(batch) == [STORED, DUPLICATE, Indexed("conflict", True), STORED]
    again = [make_received(header=each.header, sha256=each.sha256) for each in batch]
    assert [each.outcome for each in Indexer(database).index(again)] == [
        "duplicate",
        "duplicate",
        "conflict",
        "duplicate",
    ]


def test_one_batch_may_hold_several_patients_studies_and_series(database: Database, make_received: Make) -> None:
    batch = [
        make_received(patient_id=f"P{n // 8}", study_uid=f"1.2.{n // 4}", series_uid=f"1.3.{n // 2}") for n in range(16)
    ]
    assert Indexer(database).index(batch) == [STORED] * 16
    tables = ("patients", "studies", "series", "instances", "jobs", "worklist")
    assert [count(database, table) for table in tables] == [2, 4, 8, 16, 16, 4]


def test_one_series_uid_in_two_studies_is_two_series(database: Database, make_received: Make) -> None:
    indexer = Indexer(database)
    one, two = make_received(series_uid="1.2.3"), make_received(series_uid="1.2.3")
    assert indexer.index([one]) + indexer.index([two]) == [STORED, STORED]
    with database.autocommit() as connection:
        for each in (one, two):
            (instance,) = studies.instances_of(connection, each.header.study_uid, "1.2.3")
            assert instance.sop_uid == each.header.sop_uid


def test_studies_without_a_patient_id_are_not_one_patient(database: Database, make_received: Make) -> None:
    Indexer(database).index([make_received(patient_id=""), make_received(patient_id="")])
    assert count(database, "patients") == 2


def test_the_issuer_tells_patients_apart(database: Database, make_received: Make) -> None:
    Indexer(database).index([make_received(patient_id="1", issuer="A"), make_received(patient_id="1", issuer="B")])
    assert count(database, "patients") == 2


def test_each_study_keeps_the_name_it_was_sent_with(database: Database, make_received: Make) -> None:
    Indexer(database).index([make_received(patient_id="1", patient_name=name) for name in ("A^B", "C^D")])
    assert rows(database, "SELECT patient_name FROM studies ORDER BY 1") == [("A^B",), ("C^D",)]
    assert count(database, "patients") == 1


def test_name_words_of_all_groups_are_kept(database: Database, make_received: Make) -> None:
    name = "Nguyễn^Văn An=阮^文安"
    Indexer(database).index([make_received(patient_name=name)])
    assert {word for (word,) in rows(database, "SELECT word FROM name_words")} == set(names.words(name))


@pytest.mark.parametrize(
    "odd",
    [
        {"patient_name": "A\0B^" + "x" * 5000},
        {"patient_id": "é" * 5000, "issuer": "é" * 5000, "accession_number": "é" * 5000, "modality": "é" * 5000},
        {"study_description": "lone \ud800 surrogate", "institution_name": 'back\\slash\\u0000 "quote" {brace}'},
        {"instance_number": 10**12, "rows": -(10**12), "series_number": 2**31, "frames": 2**31 - 1},
        {"other_patient_ids": ("a\0", "\ud800")},
        {"study_date": dt.date(1, 1, 1), "patient_birth_date": dt.date(9999, 12, 31)},
    ],
)
def test_odd_values_neither_fail_nor_harm_their_neighbours(
    database: Database, make_received: Make, odd: dict[str, Any]
) -> None:
    assert Indexer(database).index([make_received(), make_received(**odd), make_received()]) == [STORED] * 3
    assert Indexer(database).index([make_received(**odd)]) == [STORED]


def test_a_failing_batch_teaches_the_cache_nothing(database: Database, make_received: Make) -> None:
    indexer = Indexer(database)
    received = make_received()
    with database.autocommit() as connection:
        connection.execute("ALTER TABLE audit ADD CONSTRAINT never CHECK (false)")
    with pytest.raises(Exception, match="never"):
        indexer.index([received])
    assert count(database, "studies") == 0
    with database.autocommit() as connection:
        connection.execute("ALTER TABLE audit DROP CONSTRAINT never")
    assert indexer.index([received]) == [STORED]


def test_a_study_that_was_deleted_is_made_again(database: Database, make_received: Make) -> None:
    indexer = Indexer(database)
    received = make_received()
    indexer.index([received])
    with database.transaction() as connection:
        for table in ("instances", "series", "studies"):
            connection.execute(f"DELETE FROM {table}")
    later = make_received(study_uid=received.header.study_uid, series_uid=received.header.series_uid)
    assert indexer.index([later, received]) == [STORED, STORED]
    assert [count(database, table) for table in ("studies", "series", "instances", "worklist")] == [1, 1, 2, 1]


def test_index_instances_is_undone_with_the_transaction_of_the_caller(database: Database, make_received: Make) -> None:
    first, second = make_received(), make_received()
    again = make_received(header=first.header)
    with database.transaction() as connection:
        assert index_instances(connection, [first, again, second]) == ["stored", "duplicate", "stored"]
    other = make_received(header=first.header, content=b"x")
    with database.transaction() as connection:
        assert index_instances(connection, [other, make_received(), again]) == ["conflict", "stored", "duplicate"]
        raise psycopg.Rollback
    assert [count(database, table) for table in ("studies", "instances", "set_aside")] == [2, 2, 0]


def test_an_empty_batch_is_nothing(database: Database) -> None:
    assert Indexer(database).index([]) == []


def test_unknown_studies_and_instances_are_not_found(database: Database) -> None:
    with database.autocommit() as connection:
        with pytest.raises(NotFound):
            studies.study(connection, "1.2.3")
        with pytest.raises(NotFound):
            studies.instance(connection, "1.2.3")
        assert studies.series_of(connection, "1.2.3") == []
        assert studies.instances_of(connection, "1.2.3") == []


def test_a_database_that_is_away_is_said_so(make_received: Make, tmp_path: Any) -> None:
    indexer = Indexer(Database(f"host={tmp_path} dbname=none"))
    with pytest.raises(DatabaseUnavailable):
        indexer.index([make_received()])
