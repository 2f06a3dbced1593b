"""Orders in the database: their rules, their history, and what their priority does to the worklist."""

from __future__ import annotations

import datetime as dt
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from ordering import DESK, ME, change, order, place, read, study_uid_of

from pacs.ordering import InvalidOrder
from storage import audit, jobs, orders, worklist
from storage.database import Database
from storage.errors import Conflict, NotFound
from storage.studies import Received, index_instances

ARRIVED = dt.datetime(2026, 11, 22, 9, 0, tzinfo=dt.UTC)
MINUTE = dt.timedelta(minutes=1)


@pytest.fixture
def arrive(database: Database, make_received: Callable[..., Received]) -> Callable[..., str]:
    """A study of one routine image arrives, due after eight hours; its UID."""

    def arrives(**over: Any) -> str:
        received = make_received(
            **{"received_at": ARRIVED, "latest_due_at": ARRIVED + 480 * MINUTE, "patient_id": "BN1", **over}
        )
        with database.transaction() as connection:
            index_instances(connection, [received])
        return received.header.study_uid

    return arrives


def item(database: Database, study_uid: str) -> worklist.Item:
    with database.autocommit() as connection:
        return worklist.item(connection, study_uid)


def withdraw(database: Database, number: int, to: Any = "CANCELLED") -> bool:
    with database.transaction() as connection:
        return DESK.withdraw(connection, number, ME, to)


def progress(database: Database, number: int, to: Any) -> bool:
    with database.transaction() as connection:
        return DESK.progress(connection, number, ME, to)


def step_statuses(database: Database, number: int) -> list[str]:
    return [step.status for procedure in read(database, number).order.procedures for step in procedure.steps]


# ---- documents, history


def test_an_order_is_kept_whole_and_numbered(database: Database):
    number = place(database, {}, {"step_id": "mine"}, accession_number="A1")
    stored = read(database, number)
    assert (stored.status, stored.announced, stored.urgency) == ("SCHEDULED", True, 0)
    (procedure,) = stored.order.procedures
    assert [step.step_id for step in procedure.steps] == [f"S{number}-1-1", "mine"]
    assert stored.order.patient.name == "Nguyễn^Văn An"
    with pytest.raises(NotFound), database.autocommit() as connection:
        orders.get(connection, number + 1)


def test_the_history_tells_what_changed(database: Database):
    number = place(database)
    assert change(database, number, priority="STAT", patient={"sex": "F"}) == [
        ("patient.sex", "M", "F"),
        ("priority", "ROUTINE", "STAT"),
    ]
    assert change(database, number, priority="STAT") == []
    with database.autocommit() as connection:
        first, second = orders.history(connection, number)
        audited = audit.page(connection)
    assert (first.action, first.actor, second.action) == ("order.new", "me", "order.changed")
    assert second.changes == [["patient.sex", "M", "F"], ["priority", "ROUTINE", "STAT"]]
    assert [entry.action for entry in audited] == ["order.changed", "order.new"]
    assert audited[0].detail == {"order": number, "changed": ["patient.sex", "priority"]}  # no values: no names


def test_what_would_be_no_order_changes_nothing(database: Database):
    number = place(database)
    with pytest.raises(InvalidOrder, match=r"patient\.name"):
        change(database, number, patient={"name": None})
    with pytest.raises(InvalidOrder, match="required"):
        place(database, patient={"id": "1"})
    assert read(database, number).order.patient.name
    with database.autocommit() as connection:
        assert len(orders.page(connection)) == 1


def test_numbers_of_placer_and_filler_belong_to_one_order(database: Database):
    first = place(database, placer_number="P1", placer_issuer="HIS", filler_number="F1")
    for taken in ({"placer_number": "P1", "placer_issuer": "HIS"}, {"filler_number": "F1"}):
        with pytest.raises(Conflict, match=f"order {first}"):
            place(database, **taken)
    second = place(database, placer_number="P1", placer_issuer="OTHER")
    with pytest.raises(Conflict, match=f"order {first}"):
        change(database, second, placer_issuer="HIS")
    with database.autocommit() as connection:
        assert orders.find(connection, placer=("P1", "OTHER")).order_pk == second  # type: ignore[union-attr]
        assert orders.find(connection, placer=("P2", "HIS")) is None
        assert orders.find(connection) is None


def test_an_accession_number_of_several_orders_names_none(database: Database):
    place(database, accession_number="A1")
    place(database, accession_number="A1")
    with pytest.raises(Conflict, match="accession number"), database.autocommit() as connection:
        orders.find(connection, accession="A1")


def test_pages(database: Database):
    numbers = [place(database, accession_number=f"A{n}") for n in range(5)]
    withdraw(database, numbers[0])
    with database.autocommit() as connection:
        first = orders.page(connection, limit=2)
        second = orders.page(connection, before=first[-1].order_pk, limit=2)
        assert [each.order_pk for each in (*first, *second)] == numbers[:0:-1]
        assert [each.order_pk for each in orders.page(connection, status="CANCELLED")] == numbers[:1]
        assert [each.order_pk for each in orders.page(connection, accession="A3")] == numbers[3:4]
        uid = read(database, numbers[2]).order.procedures[0].study_uid
        assert [each.order_pk for each in orders.page(connection, study_uid=uid)] == numbers[2:3]
        assert len(orders.page(connection, patient_id="BN1")) == 5
        assert orders.page(connection, patient_id="BN\0") == []


# ---- what may happen


def test_a_cancelled_order_stays_cancelled(database: Database):
    number = place(database)
    assert withdraw(database, number)
    assert not withdraw(database, number)
    assert step_statuses(database, number) == ["CANCELLED"]
    with pytest.raises(Conflict, match="cancelled"):
        change(database, number, priority="STAT")
    with pytest.raises(Conflict, match="cancelled"):
        progress(database, number, "COMPLETED")


def test_an_order_goes_only_forward(database: Database):
    number = place(database)
    assert progress(database, number, "ON_HOLD")
    assert progress(database, number, "SCHEDULED")
    assert progress(database, number, "IN_PROGRESS")
    assert not progress(database, number, "SCHEDULED")
    with pytest.raises(Conflict, match="discontinued"):
        withdraw(database, number)
    assert progress(database, number, "COMPLETED")
    assert step_statuses(database, number) == ["COMPLETED"]
    assert not progress(database, number, "IN_PROGRESS")
    with pytest.raises(Conflict, match="performed"):
        withdraw(database, number, "DISCONTINUED")
    assert change(database, number, priority="HIGH")  # it is still to be read


def test_a_running_order_can_be_discontinued(database: Database):
    number = place(database, {}, {"step_id": "2"})
    progress(database, number, "IN_PROGRESS")
    assert withdraw(database, number, "DISCONTINUED")
    assert step_statuses(database, number) == ["DISCONTINUED"] * 2


def test_what_comes_late_fills_gaps(database: Database):
    with database.transaction() as connection:
        number = DESK.new(connection, order(priority="STAT"), ME, announced=False)
    assert not read(database, number).announced
    change(database, number, comments="from a change")
    assert not read(database, number).announced
    with database.transaction() as connection:
        DESK.change(connection, number, order(priority="LOW", admission_id="V1"), ME, fill=True)
    stored = read(database, number)
    assert (stored.announced, stored.order.priority, stored.order.admission_id) == (True, "STAT", "V1")


def test_orders_change_one_after_the_other(database: Database):
    """Many at once on one order: nothing is lost, nothing locks up."""
    number = place(database)
    failed: list[BaseException] = []

    def work(n: int) -> None:
        try:
            change(
                database,
                number,
                procedures=[{"steps": [{"step_id": f"new{n}", "modality": "CT", "start": "2026-11-22T08:00:00"}]}],
            )
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failed == []
    assert len(step_statuses(database, number)) == 9


# ---- priority and the worklist


@pytest.mark.parametrize(
    ("priority", "shown", "minutes"), [("STAT", "stat", 15), ("HIGH", "urgent", 60), ("ROUTINE", "routine", 480)]
)
def test_a_study_takes_the_priority_of_its_order(
    database: Database, arrive: Callable[..., str], priority: str, shown: str, minutes: int
):
    by_uid = place(database, priority=priority)
    place(database, priority=priority, accession_number="A1")
    for uid in (arrive(study_uid=study_uid_of(database, by_uid)), arrive(accession_number="A1")):
        found = item(database, uid)
        assert (found.priority, found.due_at) == (shown, ARRIVED + minutes * MINUTE)
        assert found.latest_due_at == found.due_at
    with database.autocommit() as connection:
        assert [each.action for each in audit.page(connection, study_uid=uid)][-1:] == ["study.ordered"]


def test_an_order_never_pushes_back(database: Database, arrive: Callable[..., str]):
    place(database, priority="LOW", accession_number="A1")
    uid = arrive(accession_number="A1", priority="stat", latest_due_at=ARRIVED + 15 * MINUTE)
    found = item(database, uid)
    assert (found.priority, found.due_at) == ("stat", ARRIVED + 15 * MINUTE)


@pytest.mark.parametrize(
    "over",
    [
        {"accession_number": "A1", "patient_id": "OTHER"},  # the number of another hospital
        {"accession_number": "A2"},
        {"accession_number": ""},
    ],
)
def test_other_studies_are_left_alone(database: Database, arrive: Callable[..., str], over: dict[str, str]):
    place(database, priority="STAT", accession_number="A1")
    place(database, priority="STAT")  # without an accession number
    assert item(database, arrive(**over)).priority == "routine"


def test_a_cancelled_order_hastens_nothing(database: Database, arrive: Callable[..., str]):
    withdraw(database, place(database, priority="STAT", accession_number="A1"))
    assert item(database, arrive(accession_number="A1")).priority == "routine"


def test_an_order_that_comes_or_changes_later_brings_its_study_forward(database: Database, arrive: Callable[..., str]):
    uid = arrive(accession_number="A1")
    number = place(database, priority="ROUTINE", accession_number="A1")
    assert item(database, uid).due_at == ARRIVED + 480 * MINUTE
    change(database, number, priority="HIGH")
    assert (item(database, uid).priority, item(database, uid).due_at) == ("urgent", ARRIVED + 60 * MINUTE)
    change(database, number, priority="LOW")
    assert (item(database, uid).priority, item(database, uid).due_at) == ("urgent", ARRIVED + 60 * MINUTE)
    change(database, number, priority="STAT")
    assert (item(database, uid).priority, item(database, uid).due_at) == ("stat", ARRIVED + 15 * MINUTE)
    with database.autocommit() as connection:
        due = [each for each in audit.page(connection, study_uid=uid) if each.action == "study.due"]
    assert [each.actor for each in due] == ["me", "me"]


def test_waiting_jobs_become_as_urgent_as_the_order(database: Database, arrive: Callable[..., str]):
    arrive(accession_number="A1")
    place(database, priority="STAT", accession_number="A1")
    with database.autocommit() as connection:
        (urgency,) = connection.execute("SELECT urgency FROM jobs").fetchone()  # type: ignore[misc]
    assert urgency == 2


def test_a_study_that_met_its_order_in_mid_air_is_found_by_the_next_look(
    database: Database, make_received: Callable[..., Received]
):
    """The study is indexed while the order is not committed yet, and is committed after the order looked for it."""
    received = make_received(accession_number="A1", patient_id="BN1", received_at=ARRIVED,
                             latest_due_at=ARRIVED + 480 * MINUTE)  # fmt: skip
    with database.transaction() as indexing:
        index_instances(indexing, [received])
        number = place(database, priority="STAT", accession_number="A1")
    assert item(database, received.header.study_uid).priority == "routine"
    DESK.committed(database, [number], "me")
    assert item(database, received.header.study_uid).priority == "stat"


def test_the_exchange_looks_at_what_changed_lately(database: Database, make_received: Callable[..., Received]):
    received = make_received(accession_number="A1", patient_id="BN1", received_at=ARRIVED,
                             latest_due_at=ARRIVED + 480 * MINUTE)  # fmt: skip
    with database.transaction() as indexing:
        index_instances(indexing, [received])
        place(database, priority="STAT", accession_number="A1")
    with database.transaction() as connection:
        assert orders.hasten_recent(connection, 60) == [received.header.study_uid]
        assert orders.hasten_recent(connection, 60) == []


def test_orders_show_their_studies(database: Database, arrive: Callable[..., str]):
    number = place(database, accession_number="A1", priority="HIGH")
    uids = [arrive(study_uid=study_uid_of(database, number)), arrive(accession_number="A1")]
    arrive()
    with database.autocommit() as connection:
        found = orders.studies(connection, number)
        assert {each.study_uid for each in found} == set(uids)
        assert {(each.priority, each.instance_count) for each in found} == {("urgent", 1)}
        connection.execute("UPDATE studies SET hidden = true WHERE study_uid = %s", (uids[0],))
        assert [each.study_uid for each in orders.studies(connection, number)] == uids[1:]


def test_jobs_of_new_studies_are_claimed_as_before(database: Database, arrive: Callable[..., str]):
    """The trigger on the worklist leaves everything else of a new study alone."""
    uid = arrive()
    found = item(database, uid)
    assert (found.priority, found.due_at, found.status) == ("routine", ARRIVED + 480 * MINUTE, "waiting")
    with database.transaction() as connection:
        assert len(jobs.claim(connection, "w", 10, 60)) == 1
