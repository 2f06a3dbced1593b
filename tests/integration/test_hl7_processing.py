"""HL7 messages to orders and patients: each is done once, whatever comes in whatever order, and is noted."""

from __future__ import annotations

import datetime as dt
import hashlib
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from archive import Archive
from hl7_client import Ack, message, order, orm, pid, segment
from ordering import DESK, place, read

from pacs.hl7.processing import Processor
from storage import changes, messages, orders, patients, studies, worklist
from storage.database import Database

Ask = Callable[[bytes], Ack]
BIRTH = dt.date(1961, 4, 30)


@pytest.fixture
def ask(database: Database) -> Ask:
    """Sends a message to a processor over an empty database."""
    processor = Processor(database, DESK)
    return lambda data: Ack(processor.answer(data, "10.0.0.7"))


def listed(database: Database) -> list[orders.Stored]:
    """All orders, the oldest first."""
    with database.autocommit() as connection:
        return orders.page(connection)[::-1]


def noted(database: Database) -> list[messages.Kept]:
    with database.autocommit() as connection:
        return messages.page(connection)[::-1]


def only(database: Database) -> orders.Stored:
    (found,) = listed(database)
    return found


# ---- orders


def test_a_new_order(database: Database, ask: Ask):
    data = orm(priority="S", study_uid="1.2.3", header={"control": "M1"})
    ack = ask(data)
    stored = only(database)
    assert (ack.code, ack.reason) == ("AA", f"order {stored.order_pk} placed")
    assert (stored.order.placer_number, stored.order.placer_issuer, stored.order.accession_number) == (
        "PL1",
        "HIS",
        "A100",
    )
    assert (stored.order.priority, stored.urgency, stored.max_wait) == ("STAT", 2, dt.timedelta(minutes=15))
    assert stored.order.patient.name == "Nguyễn^Văn^An"
    assert stored.order.procedures[0].study_uid == "1.2.3"
    (kept,) = noted(database)
    assert (kept.sender, kept.control_id, kept.kind, kept.address) == ("HIS|BVA", "M1", "ORM^O01", "10.0.0.7")
    assert (kept.code, kept.orders, kept.answers) == ("AA", [stored.order_pk], 1)
    assert (kept.sha256, kept.size) == (hashlib.sha256(data).digest(), len(data))
    with database.autocommit() as connection:
        (event,) = orders.history(connection, stored.order_pk)
    assert (event.actor, event.message_pk) == ("hl7 HIS|BVA", kept.message_pk)


def test_the_same_message_again_has_no_second_effect(database: Database, ask: Ask):
    data = orm(header={"control": "M1"})
    first, second = ask(data), ask(data)
    assert (second.code, second.reason) == ("AA", f"{first.reason} (again)")
    assert len(listed(database)) == 1
    (kept,) = noted(database)
    assert kept.answers == 2
    with database.autocommit() as connection:
        assert len(orders.history(connection, kept.orders[0])) == 1


def test_many_at_once_are_one(database: Database, ask: Ask):
    data = orm(header={"control": "M1"})
    with ThreadPoolExecutor(8) as pool:
        assert {ack.code for ack in pool.map(ask, [data] * 16)} == {"AA"}
    assert len(listed(database)) == 1
    assert noted(database)[0].answers == 16


def test_a_control_id_that_is_used_twice_is_two_messages(database: Database, ask: Ask):
    ask(orm(placer="PL1", header={"control": "1"}))
    ask(orm(placer="PL2", header={"control": "1"}))
    assert len(listed(database)) == 2


def test_what_was_refused_is_tried_again(database: Database, ask: Ask):
    """The order becomes possible meanwhile: the same message is no duplicate of its failure."""
    cancel = message("ORM^O01", segment("ORC", {1: "CA", 2: "PL1^HIS"}), control="M9")
    assert (ask(cancel).code, ask(cancel).error) == ("AE", "204")
    ask(orm())
    assert ask(cancel).code == "AA"
    assert only(database).status == "CANCELLED"
    first = noted(database)[0]
    assert (first.control_id, first.code, first.answers) == ("M9", "AA", 3)


@pytest.mark.parametrize(
    ("control", "state", "status"),
    [
        ("CA", "", "CANCELLED"),
        ("OC", "", "CANCELLED"),
        ("DC", "", "DISCONTINUED"),
        ("HD", "", "ON_HOLD"),
        ("SC", "IP", "IN_PROGRESS"),
        ("SC", "CM", "COMPLETED"),
        ("SC", "CA", "CANCELLED"),
        ("XO", "CM", "COMPLETED"),
    ],
)
def test_order_controls(database: Database, ask: Ask, control: str, state: str, status: str):
    ask(orm())
    assert ask(orm(control, state=state)).code == "AA"
    assert only(database).status == status


def test_hold_and_release(database: Database, ask: Ask):
    ask(orm())
    ask(orm("HD"))
    assert ask(orm("RL")).code == "AA"
    assert only(database).status == "SCHEDULED"


def test_a_change(database: Database, ask: Ask):
    ask(orm(priority="R", obr20="S1"))
    ack = ask(orm("XO", priority="S", start="202611231100", obr20="S1", patient=pid(sex="F")))
    assert ack.code == "AA"
    stored = only(database)
    (step,) = stored.order.procedures[0].steps
    assert (stored.order.priority, stored.order.patient.sex) == ("STAT", "F")
    assert step.start == dt.datetime(2026, 11, 23, 11, 0)


def test_steps_that_a_change_leaves_out_are_cancelled(database: Database, ask: Ask):
    two = (*order(obr20="S1"), *order(obr20="S2")[2:])
    ask(message("ORM^O01", *two))
    ask(orm("XO", obr20="S2"))
    steps = only(database).order.procedures[0].steps
    assert {step.step_id: step.status for step in steps} == {"S1": "CANCELLED", "S2": "SCHEDULED"}


def test_a_new_order_that_is_known_is_a_change(database: Database, ask: Ask):
    ask(orm(priority="R"))
    assert "changed" in ask(orm(priority="S")).reason
    assert only(database).order.priority == "STAT"


# ---- out of order


def test_a_change_that_overtakes_its_order(database: Database, ask: Ask):
    assert "was not known" in ask(orm("XO", priority="S")).reason
    assert not only(database).announced
    assert ask(orm("NW", priority="R", obr31="^ho")).code == "AA"
    stored = only(database)
    assert (stored.announced, stored.order.priority, stored.order.procedures[0].reason) == (True, "STAT", "ho")


def test_a_cancel_that_overtakes_its_order(database: Database, ask: Ask):
    assert ask(orm("CA")).code == "AA"
    assert ask(orm("NW")).code == "AA"
    assert only(database).status == "CANCELLED"
    assert ask(orm("XO")).error == "206"


def test_clocks_decide_nothing(database: Database, ask: Ask):
    """A sender whose clock jumps back is believed all the same: what came last is what counts."""
    ask(orm(priority="R", header={"at": "20301231235959"}))
    assert ask(orm("XO", priority="S", header={"at": "19700101000000"})).code == "AA"
    assert only(database).order.priority == "STAT"


@pytest.mark.parametrize("control", ["SC", "HD", "RL"])
def test_a_state_of_an_unknown_order_is_refused(database: Database, ask: Ask, control: str):
    assert ask(orm(control, state="IP")).error == "204"
    assert listed(database) == []


def test_an_order_without_placer_number_is_found_by_its_accession_number(database: Database, ask: Ask):
    number = place(database, accession_number="A100")
    assert ask(orm("XO", placer="PL1", accession="A100", priority="S")).code == "AA"
    stored = only(database)
    assert (stored.order_pk, stored.order.placer_number, stored.order.priority) == (number, "PL1", "STAT")


# ---- refusals


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"garbage", ("AR", "100", "")),
        (message("ORU^R01", pid()), ("AR", "200", "MSH^1^9")),
        (message("ADT^A01", pid()), ("AR", "201", "MSH^1^9")),
        (message("ORM^O02", pid()), ("AR", "201", "MSH^1^9")),
        (orm("ZZ"), ("AE", "103", "ORC^1^1")),
        (orm(modality=""), ("AE", "101", "OBR^1^24")),
        (orm(modality="x-ray"), ("AE", "102", "OBR^1^24")),
        (orm(patient=pid(patient="")), ("AE", "101", "PID^1^3")),
        (orm(patient=pid(name="")), ("AE", "101", "PID^1^5")),
        (orm(patient=pid(name="x" * 65)), ("AE", "102", "PID^1^5")),
        (orm(accession="12345678901234567"), ("AE", "102", "OBR^1^18")),
        (orm(study_uid="1.02.3"), ("AE", "102", "ZDS^1^1")),
        (message("ADT^A08", segment("PID", {5: "Lê"})), ("AE", "101", "PID^1^3")),
    ],
)
def test_refusals_say_what_and_where_and_change_nothing(
    database: Database, ask: Ask, data: bytes, expected: tuple[str, str, str]
):
    ack = ask(data)
    assert (ack.code, ack.error, ack.field("ERR", 2)) == expected
    assert ack.reason
    assert listed(database) == []
    (kept,) = noted(database)
    assert (kept.code, kept.orders) == (expected[0], [])


def test_one_bad_order_of_two_leaves_none(database: Database, ask: Ask):
    bad = order(placer="PL2", modality="")
    assert ask(message("ORM^O01", *order(), *bad[2:])).code == "AE"
    assert listed(database) == []


def test_a_database_that_is_away_is_a_reason_to_come_again():
    away = Processor(Database("host=127.0.0.1 port=1 user=x dbname=x"), DESK)
    ack = Ack(away.answer(orm(), "127.0.0.1"))
    assert (ack.code, ack.error) == ("AR", "207")
    assert "again" in ack.reason


def test_no_name_is_logged_or_noted(database: Database, ask: Ask):
    with structlog.testing.capture_logs() as logs:
        for data in (
            orm(),
            orm("ZZ"),
            orm(modality=""),
            orm(patient=pid(name="Bí\\Mật" * 20)),
            message("ADT^A08", pid()),
        ):
            ask(data)
    for text in (str(logs), str(noted(database))):
        assert not any(secret in text for secret in ("Nguy", "BN77", "Trần", "Lê", "Bí"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_comes_is_answered(ask: Ask, data: st.DataObject):
    """Messages with pieces cut out, doubled and changed get one of the answers; the processor lives on."""
    whole = orm(priority="S", study_uid="1.2.3", obr20="S1", header={"control": "F"})
    at, until = sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=2, max_size=2)))
    spoiled = whole[:at] + data.draw(st.binary(max_size=8)) + whole[until:]
    assert ask(spoiled).code in {"AA", "AE", "AR", "CA", "CE", "CR"}


# ---- patients


def test_a_patient_update_reaches_open_orders_and_studies(database: Database, store: Any, ask: Ask):
    received = Archive(database, store).add(patient_id="BN77", patient_name="Nguyen^An", patient_birth_date=BIRTH)
    ask(orm())
    ask(orm(placer="PL2"))
    ask(orm("CA", placer="PL2"))
    assert ask(message("ADT^A08", pid(name="Nguyễn^Văn^Bình"))).code == "AA"
    assert [each.order.patient.name for each in listed(database)] == ["Nguyễn^Văn^Bình", "Nguyễn^Văn^An"]
    with database.autocommit() as connection:
        assert studies.study(connection, received.header.study_uid).patient_name == "Nguyễn^Văn^Bình"
        assert [each.kind for each in changes.page(connection)] == ["update_patient"]
    ask(message("ADT^A08", pid(name="Nguyễn^Văn^Bình")))
    with database.autocommit() as connection:
        assert len(changes.page(connection)) == 1  # no news, no change


def test_an_update_of_nobody_is_accepted(database: Database, ask: Ask):
    assert ask(message("ADT^A08", pid("UNKNOWN"))).code == "AA"
    with database.autocommit() as connection:
        assert changes.page(connection) == []


def test_a_patient_merge_moves_orders_and_studies(database: Database, store: Any, ask: Ask):
    archive = Archive(database, store)
    received = archive.add(patient_id="OLD", patient_name="Le^Cu")
    ask(orm(patient=pid("OLD", "Lê^Cũ")))
    merge = message("ADT^A40", pid("NEW", "Lê^Mới"), segment("MRG", {1: "OLD^^^HIS"}))
    assert ask(merge).code == "AA"
    stored = only(database)
    assert (stored.order.patient.id, stored.order.patient.name) == ("NEW", "Lê^Mới")
    later = archive.add(patient_id="OLD", patient_name="Le^Cu")
    with database.autocommit() as connection:
        assert patients.target(connection, "\\OLD") == "\\NEW"
        for uid in (received.header.study_uid, later.header.study_uid):
            assert studies.study(connection, uid).patient_id == "NEW"
    again = message("ADT^A40", pid("NEW", "Lê^Mới"), segment("MRG", {1: "OLD^^^HIS"}))
    assert ask(again).code == "AA"


def test_a_merge_of_patients_into_a_circle_is_refused(ask: Ask):
    ask(message("ADT^A40", pid("NEW"), segment("MRG", {1: "OLD"})))
    assert ask(message("ADT^A40", pid("OLD"), segment("MRG", {1: "NEW"}))).error == "206"


def test_a_stat_order_hastens_the_study_that_is_here(database: Database, store: Any, ask: Ask):
    received = Archive(database, store).add(patient_id="BN77", accession_number="A100")
    ask(orm(priority="S"))
    with database.autocommit() as connection:
        item = worklist.item(connection, received.header.study_uid)
    assert (item.priority, item.due_at) == ("stat", received.received_at + dt.timedelta(minutes=15))


def test_orders_of_other_hospitals_with_the_same_patient_number_stay(database: Database, ask: Ask):
    place(database, patient={"id": "BN77", "issuer": "OTHER", "name": "Phạm^D"})
    ask(message("ADT^A08", pid(name="Nguyễn^Văn^Bình")))
    assert read(database, only(database).order_pk).order.patient.name == "Phạm^D"
