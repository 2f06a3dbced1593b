"""The queue of a destination: order, leases, back-off, attempts, and commitment by the other side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from storage import destinations, forwarding, peers
from storage.commitment import Asked
from storage.database import Database
from storage.destinations import Destination
from storage.indexing import index_instances

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.1.1"


@pytest.fixture
def fill(database: Database, make_received: Callable[..., Any]) -> Callable[..., list[str]]:
    """Makes a destination with so many instances in its queue; their SOP Instance UIDs."""

    def make(count: int, **over: Any) -> list[str]:
        with database.transaction() as connection:
            peers.put(connection, peers.Peer(name="there", aet="THERE", host="127.0.0.1", port=104), "test")
            destinations.put(connection, Destination(name="there", peer="there", method="dimse", **over), "test")
            first = make_received()
            received = [first, *(make_received(study_uid=first.header.study_uid) for _ in range(count - 1))]
            index_instances(connection, received)
            forwarding.enqueue_study(connection, "there", first.header.study_uid, "test")
        return [one.header.sop_uid for one in received]

    return make


class There:
    """The destination, each call in a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.autocommit() as connection:
            self.it = destinations.by_name(connection, "there")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*values: Any) -> Any:
            with self._database.transaction() as connection:
                return getattr(forwarding, name)(connection, *values)

        return call

    def waiting(self) -> list[str]:
        with self._database.autocommit() as connection:
            return [one.sop_uid for one in forwarding.waiting(connection, self.it.destination_pk, 100)]

    def numbers(self, state: Any = "waiting") -> list[int]:
        with self._database.autocommit() as connection:
            return [one.number for one in forwarding.entries(connection, "there", state)]

    def entry(self, state: Any = "waiting") -> forwarding.Entry:
        with self._database.autocommit() as connection:
            (found,) = forwarding.entries(connection, "there", state)
        return found

    def status(self) -> destinations.Status:
        with self._database.autocommit() as connection:
            (found,) = destinations.status(connection)
        return found


def test_the_urgent_go_first_then_the_oldest(fill: Any, database: Database) -> None:
    uids = fill(4)
    there = There(database)
    with database.autocommit() as connection:
        connection.execute("UPDATE forwarding_queue SET urgency = 5 WHERE queue_pk = %s", (there.numbers()[2],))
    assert there.waiting() == [uids[2], uids[0], uids[1], uids[3]]


def test_one_process_works_for_a_destination_until_its_lease_ends(fill: Any, database: Database) -> None:
    fill(1)
    there = There(database)
    pk = there.it.destination_pk
    assert there.lease(pk, "a", 60)
    assert not there.lease(pk, "b", 60)
    assert there.lease(pk, "a", 60)  # renewed
    assert there.status().working
    there.release(pk, "b")  # not his
    assert not there.lease(pk, "b", 60)
    there.release(pk, "a")
    assert there.lease(pk, "b", 0)
    assert there.lease(pk, "a", 60)  # b's has ended: b may have died


def test_a_line_that_fails_is_left_alone_ever_longer(fill: Any, database: Database) -> None:
    fill(1)
    there = There(database)
    pauses = [there.line_failed(there.it.destination_pk, f"no route {n}") for n in range(12)]
    assert pauses[0] == pytest.approx(5, abs=0.1)
    assert pauses[3] == pytest.approx(40, abs=0.1)
    assert pauses[-1] == pytest.approx(900, abs=0.1)
    found = there.status()
    assert (found.failures, found.last_error, found.waiting) == (12, "no route 11", 1)
    with database.autocommit() as connection:
        assert forwarding.due(connection) == []
        assert forwarding.pending(connection)
    there.done(there.it, there.numbers(), 10)
    assert there.status().failures == 0


def test_what_is_refused_waits_and_dies_after_its_attempts(fill: Any, database: Database) -> None:
    fill(1, max_attempts=3)
    there = There(database)
    for attempt in (1, 2):
        there.refused(there.it, there.numbers()[0], f"no {attempt}")
        assert there.waiting() == []  # later
        assert (there.entry().attempts, there.entry().error) == (attempt, f"no {attempt}")
    there.refused(there.it, there.numbers()[0], "never")
    assert (there.entry("dead").attempts, there.entry("dead").error) == (3, "never")
    assert there.status().dead == 1
    assert there.retry("there", "ana") == 1
    assert len(there.waiting()) == 1
    assert there.entry().attempts == 0


def test_a_broken_line_blames_an_instance_only_while_others_get_through(fill: Any, database: Database) -> None:
    fill(2, max_attempts=2)
    there = There(database)
    poison, other = there.numbers()
    for _ in range(5):
        there.broke(there.it, poison, "connection closed")
    assert len(there.waiting()) == 2  # the line is dead, nobody is to blame
    there.done(there.it, [other], 10)
    there.broke(there.it, poison, "connection closed")
    assert there.entry().attempts == 1
    assert there.waiting() == []  # it lets others go first
    there.broke(there.it, poison, "connection closed")
    assert there.entry().attempts == 1  # nothing got through since
    with database.autocommit() as connection:
        connection.execute("UPDATE forwarding_destinations SET last_success_at = now() + interval '1 s'")
    there.broke(there.it, poison, "connection closed")
    assert there.entry("dead").number == poison


def test_what_is_done_stays_done(fill: Any, database: Database) -> None:
    uids = fill(2)
    there = There(database)
    first, second = there.numbers()
    for _ in range(2):  # written twice: the outcome of the first time was not known
        there.done(there.it, [first], 10)
    assert there.status().sent_instances == 1
    there.refused(there.it, first, "late news")
    assert there.waiting() == [uids[1]]
    there.cancel("there", "ana", second)
    there.done(there.it, [second], 10)  # it was on its way when a person cancelled it
    assert (there.numbers("done"), there.numbers("cancelled")) == ([first], [second])


def test_commitment_is_asked_for_told_and_asked_again(fill: Any, database: Database) -> None:
    uids = fill(3, commitment=True, max_attempts=2)
    there = There(database)
    pk = there.it.destination_pk
    there.done(there.it, there.numbers(), 30)
    found = there.sent(pk, 10)
    assert [one for _, one in found] == [Asked(SOP_CLASS, uid) for uid in uids]
    there.ask([number for number, _ in found], "1.2.3")
    assert there.sent(pk, 10) == []
    assert there.status().uncommitted == 3
    assert not there.take_report("9.9.9", [Asked(SOP_CLASS, uids[0])], [])  # nobody asked for that
    assert there.take_report("1.2.3", [Asked(SOP_CLASS, uids[0])], [(Asked(SOP_CLASS, uids[1]), 0x0112)])
    assert there.waiting() == [uids[1]]  # sent once more
    assert "0112" in there.entry().error
    there.ask_again(3600)
    assert there.sent(pk, 10) == []
    there.ask_again(0)
    assert [one.sop_uid for _, one in there.sent(pk, 10)] == [uids[2]]
    assert len(there.numbers("committed")) == 1
    there.ask([number for number, _ in there.sent(pk, 10)], "1.2.4")
    there.unask("1.2.4")
    assert len(there.sent(pk, 10)) == 1


def test_a_hidden_or_purged_instance_leaves_the_queue(fill: Any, database: Database) -> None:
    uids = fill(2)
    there = There(database)
    there.lost_interest(there.numbers()[:1], "rejected")
    assert (there.entry("cancelled").error, there.waiting()) == ("rejected", uids[1:])
    with database.transaction() as connection:
        connection.execute("DELETE FROM jobs")
        connection.execute("DELETE FROM instances WHERE sop_uid = %s", (uids[1],))
    assert there.waiting() == []
