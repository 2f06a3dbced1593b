"""Rules fill queues from what was committed: nothing is skipped, nothing twice, in whatever order commits appear."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from storage import destinations, forwarding, peers
from storage.database import Database
from storage.destinations import Destination, Rule
from storage.errors import Conflict, InvalidInput, NotFound
from storage.indexing import index_instances
from storage.routing import Horizon, apply_rules


def add_destination(database: Database, name: str = "province", **over: Any) -> None:
    with database.transaction() as connection:
        if peers.by_name(connection, name) is None:
            aet = over.pop("aet", name.upper())
            peers.put(connection, peers.Peer(name=name, aet=aet, host="127.0.0.1", port=104), "test")
        destinations.put(connection, Destination(**{"name": name, "peer": name, "method": "dimse", **over}), "test")


def add_rule(database: Database, destination: str = "province", *, backfill: bool = False, **over: Any) -> int:
    with database.transaction() as connection:
        return destinations.add_rule(connection, Rule(destination=destination, **over), "test", backfill=backfill)


def apply(database: Database, settle_s: float = 60) -> None:
    """Apply all rules to everything that is settled now."""
    horizon = Horizon()
    with database.autocommit() as connection:
        while (marks := horizon.look(connection)) is None:
            time.sleep(0.002)
    more = True
    while more:
        with database.transaction() as connection:
            more = apply_rules(connection, marks, settle_s)


def add(database: Database, *received: Any) -> list[str]:
    with database.transaction() as connection:
        index_instances(connection, received)
    return [one.header.sop_uid for one in received]


def queued(database: Database, name: str = "province", state: Any = "waiting") -> list[str]:
    with database.autocommit() as connection:
        return [one.sop_uid or one.study_uid for one in forwarding.entries(connection, name, state, limit=100_000)]


@pytest.mark.parametrize("seed", range(3))
def test_writers_that_commit_in_any_order_lose_nothing(
    database: Database, make_received: Callable[..., Any], seed: int
) -> None:
    """Property: whoever commits or rolls back when, every committed instance is queued exactly once."""
    add_destination(database)
    add_rule(database)
    random.seed(seed)
    kept: list[str] = []
    over = threading.Event()

    def write(number: int) -> None:
        chance = random.Random(seed * 100 + number)
        for _ in range(25):
            received = [make_received() for _ in range(chance.randrange(1, 4))]
            with psycopg.connect(database.conninfo) as connection:
                connection.execute("BEGIN")
                index_instances(connection, received)  # keys are given here
                time.sleep(chance.choice([0, 0, 0.001, 0.02, 0.05]))
                if chance.random() < 0.2:
                    connection.rollback()
                    continue
                connection.commit()
            kept.extend(one.header.sop_uid for one in received)

    def route() -> None:
        while not over.is_set():
            apply(database)

    writers = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    routers = [threading.Thread(target=route) for _ in range(2)]  # two exchange processes
    for thread in (*writers, *routers):
        thread.start()
    for thread in writers:
        thread.join()
    over.set()
    for thread in routers:
        thread.join()
    apply(database)
    found = queued(database)
    assert sorted(found) == sorted(kept)
    assert len(kept) > 100


def test_a_key_that_appears_late_is_waited_for_and_nobody_is_locked_out(
    database: Database, make_received: Callable[..., Any]
) -> None:
    add_destination(database)
    add_rule(database)
    late, soon, after = make_received(), make_received(), make_received()
    horizon = Horizon()
    with psycopg.connect(database.conninfo) as slow:
        slow.execute("BEGIN")
        index_instances(slow, [late])  # holds the lower key
        add(database, soon)
        with database.autocommit() as connection:
            assert horizon.look(connection) is None
            assert horizon.look(connection) is None
        add(database, after)  # ingest goes on
        slow.commit()
    with database.autocommit() as connection:
        marks = horizon.look(connection)
    assert marks is not None
    with database.transaction() as connection:
        apply_rules(connection, marks, 60)
    assert queued(database) == [late.header.sop_uid, soon.header.sop_uid]  # `after` came after the question
    apply(database)
    assert queued(database)[2:] == [after.header.sop_uid]


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        ({}, "abcd"),
        ({"source_aets": ("CT1", "CT2")}, "b"),
        ({"modalities": ("CT",)}, "bd"),
        ({"sites": ("Huyện A",)}, "cd"),
        ({"sop_classes": ("1.2.840.10008.5.1.4.1.1.2",)}, "b"),
        ({"modalities": ("CT",), "sites": ("Huyện A",)}, "d"),
        ({"enabled": False}, ""),
        ({"flagged_only": True}, ""),
    ],
)
def test_an_instance_goes_where_every_filter_fits(
    database: Database, make_received: Callable[..., Any], rule: dict[str, Any], fits: str
) -> None:
    add_destination(database)
    add_rule(database, **rule)
    uids = dict(
        zip(
            "abcd",
            add(
                database,
                make_received(),
                make_received(modality="CT", sop_class="1.2.840.10008.5.1.4.1.1.2", source_aet="CT1"),
                make_received(site="Huyện A"),
                make_received(site="Huyện A", modality="CT"),
            ),
            strict=True,
        )
    )
    apply(database)
    assert queued(database) == [uids[each] for each in fits]


def test_nobody_gets_back_what_he_sent(database: Database, make_received: Callable[..., Any]) -> None:
    add_destination(database, aet="PROVINCE")
    add_rule(database)
    _, kept = add(database, make_received(source_aet="PROVINCE"), make_received())
    apply(database)
    assert queued(database) == [kept]


def flag(database: Database, sop_uid: str, *, flagged: bool = True) -> None:
    """What the worker does when a model has spoken, in one transaction."""
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO scores (instance_fk, study_fk, model_name, model_version, weights_sha256, engine, probability,"
            " threshold, flagged, decode_ms, inference_ms)"
            " SELECT instance_pk, study_fk, 'm', '1', %s, 'torch-cpu', 0.9, 0.5, %s, 1, 1 FROM instances"
            " WHERE sop_uid = %s",
            (str(random.random()), flagged, sop_uid),
        )
        connection.execute(
            "UPDATE worklist SET flagged = flagged OR %s WHERE study_fk ="
            " (SELECT study_fk FROM instances WHERE sop_uid = %s)",
            (flagged, sop_uid),
        )


def test_a_flag_takes_the_whole_study_along_whatever_came_first(
    database: Database, make_received: Callable[..., Any]
) -> None:
    add_destination(database)
    add_rule(database, flagged_only=True, urgency=5)
    first = make_received()
    study = {"study_uid": first.header.study_uid}
    uids = add(database, first, make_received(**study), make_received())
    apply(database)
    flag(database, uids[2], flagged=False)
    apply(database)
    assert queued(database) == []
    flag(database, uids[0])
    apply(database)
    assert queued(database) == uids[:2]
    uids += add(database, make_received(**study))
    apply(database)
    assert queued(database) == [*uids[:2], uids[3]]
    flag(database, uids[0])
    apply(database)
    assert len(queued(database)) == 3  # a second score queues nothing again


def test_a_rule_holds_from_now_on_or_for_everything(
    database: Database, make_received: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.routing._BATCH", 2)
    add_destination(database)
    before = add(database, *(make_received() for _ in range(5)))
    apply(database)
    add_rule(database, modalities=("DX",))
    (after,) = add(database, make_received())
    apply(database)
    assert queued(database) == [after]
    add_rule(database, backfill=True)
    apply(database)
    assert sorted(queued(database)) == sorted([*before, after])


def test_a_study_is_announced_once_it_has_settled(database: Database, make_received: Callable[..., Any]) -> None:
    add_destination(database, method="ian")
    add_rule(database)
    first = make_received()
    add(database, first)
    apply(database, settle_s=0)
    assert queued(database) == [first.header.study_uid]
    (found,) = destinations_due(database)
    with database.transaction() as connection:
        ((number, uid, _),) = forwarding.waiting_studies(connection, found.destination_pk, 10)
        assert uid == first.header.study_uid
        forwarding.done(connection, found, [number])
    assert destinations_due(database) == []
    add(database, make_received(study_uid=first.header.study_uid))
    apply(database, settle_s=600)
    assert queued(database) == [uid]  # it is complete only when nothing more comes
    assert destinations_due(database) == []


def destinations_due(database: Database) -> list[Destination]:
    with database.autocommit() as connection:
        return forwarding.due(connection)


def test_what_makes_no_sense_is_refused(database: Database) -> None:
    with pytest.raises(InvalidInput, match="no peer"), database.transaction() as connection:
        destinations.put(connection, Destination(name="x", peer="nobody", method="dimse"), "test")
    add_destination(database)
    with pytest.raises(InvalidInput, match="by stow"):
        add_destination(database, method="stow")
    with pytest.raises(Conflict):
        add_destination(database, method="ian")
    with pytest.raises(NotFound):
        add_rule(database, "nowhere")
    for wrong in ({"parallel": 0}, {"timezone": "Mars/Olympus"}, {"name": "a b"}, {"max_attempts": 0}):
        with pytest.raises(InvalidInput):
            Destination(**{"name": "x", "peer": "x", "method": "dimse", **wrong})
    with pytest.raises(InvalidInput):
        Rule(destination="x", modalities=("",))
