"""Forwarding to another archive: a district's node feeds a province's, which is away, slow, full or dies half-way."""

from __future__ import annotations

import datetime as dt
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from district import EXPLICIT, ROOT, District
from pynetdicom import AE, evt
from raw_dicom import CT, data_set

from storage import destinations, forwarding
from storage.destinations import Window


@dataclass
class Archive:
    """Another archive, by pynetdicom, that does what a test wants with each object."""

    answer: Callable[[int, str], int] = lambda _count, _uid: 0x0000  # status by the count of requests and instance
    stored: list[str] = field(default_factory=list)
    asked: int = 0
    port: int = 0
    server: Any = None

    def listen(self) -> None:
        ae = AE("SANGLOC")
        ae.add_supported_context(CT, EXPLICIT)
        ae.add_supported_context("1.2.840.10008.1.1")
        self.server = ae.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        self.port = self.server.server_address[1]

    def _store(self, event: Any) -> int:
        self.asked += 1
        uid = str(event.request.AffectedSOPInstanceUID)
        status = self.answer(self.asked, uid)
        if status < 0:  # die in the middle
            event.assoc.abort()
            return 0x0110
        if status == 0:
            self.stored.append(uid)
        return status

    def close(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server = None


@pytest.fixture
def province() -> Iterator[Archive]:
    made = Archive()
    yield made
    made.close()


def test_everything_that_comes_in_is_there_bit_by_bit(
    receiver: Any, district: District, stored: Callable[[str], bytes | None], eventually: Callable[..., None]
) -> None:
    district.send_to(receiver.port, parallel=3)
    uids = district.add(20)
    district.run()
    uids += district.add(20, study="2")
    eventually(lambda: district.sent() == 40)
    for uid in uids:
        body = stored(uid)
        assert body is not None
        assert district.ingest.store.read(key(district, uid)).endswith(body)
    assert receiver.receiver.counters["stored"] == 40
    assert receiver.receiver.counters["duplicate"] == 0
    assert district.status().waiting == 0
    assert len(district.entries("done")) == 40


def key(district: District, uid: str) -> str:
    with district.database.autocommit() as connection:
        row = connection.execute("SELECT object_key FROM instances WHERE sop_uid = %s", (uid,)).fetchone()
    assert row is not None
    return row[0]


def test_a_dead_line_costs_no_attempt_and_is_taken_up_again(
    district: District, province: Archive, eventually: Callable[..., None]
) -> None:
    province.listen()
    province.close()  # its port is known, but nobody is there
    district.send_to(province.port, max_attempts=2)
    uids = district.add(5)
    district.run()
    eventually(lambda: district.status().failures >= 3)
    found = district.status()
    assert "does not answer" in found.last_error
    assert (found.waiting, found.dead) == (5, 0)
    assert {entry.attempts for entry in district.entries("waiting")} == {0}
    province.listen()
    eventually(lambda: district.sent() == 5)
    assert province.stored == uids
    assert district.status().failures == 0


def test_one_that_breaks_every_line_is_set_aside_and_the_others_get_through(
    district: District, province: Archive, eventually: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = f"{ROOT}.3.3"
    province.answer = lambda _count, uid: -1 if uid == poison else 0
    province.listen()
    district.send_to(province.port, max_attempts=2)
    uids = district.add(6)
    district.run()
    eventually(lambda: district.sent() == 5)
    with district.database.autocommit() as connection:  # its second attempt would come in some seconds
        connection.execute("UPDATE forwarding_queue SET run_after = now() WHERE state = 'waiting'")
    district.add(1)
    eventually(lambda: district.status().dead == 1)
    (dead,) = district.entries("dead")
    assert dead.sop_uid == poison
    assert "aborted" in dead.error
    eventually(lambda: district.sent() == 6)
    assert len(set(province.stored)) == len(province.stored) == 6
    with district.database.transaction() as connection:
        assert forwarding.retry(connection, "province", "ana") == 1
        destinations.notify(connection)
    province.answer = lambda _count, _uid: 0
    eventually(lambda: district.sent() == 7)
    assert set(uids) <= set(province.stored)


def test_a_refusal_is_tried_again_and_then_shown(
    district: District, province: Archive, eventually: Callable[..., None]
) -> None:
    province.answer = lambda _count, uid: 0xA900 if uid == f"{ROOT}.3.1" else 0xB000  # a warning: it is stored
    province.listen()
    district.send_to(province.port, max_attempts=1)
    district.add(2)
    district.run()
    eventually(lambda: district.status().dead == 1 and district.sent() == 1)
    (dead,) = district.entries("dead")
    assert "A900" in dead.error
    with district.database.transaction() as connection:
        assert forwarding.cancel(connection, "province", "ana", dead.number) == 1
    assert district.status().dead == 0


def test_an_archive_that_is_full_is_left_alone_for_a_while(
    district: District, province: Archive, eventually: Callable[..., None]
) -> None:
    province.answer = lambda count, _uid: 0xA700 if count < 4 else 0
    province.listen()
    district.send_to(province.port, max_attempts=1)
    district.add(3)
    district.run()
    eventually(lambda: district.sent() == 3)
    assert district.status().dead == 0
    assert "out of resources" in district.status().last_error


def test_a_destination_that_stalls_is_given_up_and_tried_again(
    district: District, province: Archive, eventually: Callable[..., None]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        district.send_to(silent.getsockname()[1])
        district.add(1)
        district.run(timeout_s=0.5)
        eventually(lambda: "silent" in district.status().last_error)
        province.port = silent.getsockname()[1]
    province.listen()
    eventually(lambda: district.sent() == 1)


def test_a_sop_class_that_nobody_takes_is_a_dead_letter_and_holds_nobody_up(
    district: District, province: Archive, eventually: Callable[..., None]
) -> None:
    province.listen()
    district.send_to(province.port, max_attempts=1)
    mr = "1.2.840.10008.5.1.4.1.1.4"
    data = data_set(f"{ROOT}.4.1", f"{ROOT}.1.9", b"\0" * 100, sop_class=mr)
    with district.ingest.receive(
        sop_class=mr, sop_uid=f"{ROOT}.4.1", transfer_syntax=EXPLICIT, source_aet="MR", source_address="127.0.0.1"
    ) as incoming:
        incoming.write([data])
        incoming.commit()
    district.add(1)
    district.run()
    eventually(lambda: district.status().dead == 1 and district.sent() == 1)
    assert "cannot be sent" in district.entries("dead")[0].error


def test_a_damaged_or_rejected_instance_does_not_stop_the_rest(
    district: District, province: Archive, eventually: Callable[..., None]
) -> None:
    province.listen()
    lost, hidden, whole = district.add(3)
    district.ingest.store.delete(key(district, lost))
    district.send_to(province.port, max_attempts=1)
    with district.database.transaction() as connection:
        forwarding.enqueue_study(connection, "province", f"{ROOT}.1.1", "ana")
        connection.execute("UPDATE instances SET hidden = true WHERE sop_uid = %s", (hidden,))
    district.run()
    eventually(lambda: district.status().dead == 1 and district.sent() == 1)
    assert province.stored == [whole]
    assert district.entries("dead")[0].sop_uid == lost
    assert district.entries("cancelled")[0].sop_uid == hidden


def test_a_window_holds_the_pace_and_the_hours(
    district: District, province: Archive, eventually: Callable[..., None]
) -> None:
    province.listen()
    now = dt.datetime.now(dt.UTC)
    later = Window((now + dt.timedelta(hours=2)).time(), (now + dt.timedelta(hours=3)).time(), None)
    district.send_to(province.port, windows=(later,))
    district.add(4, size=100_000)
    district.run()
    eventually(lambda: district.status().waiting == 4)
    assert district.sent() == 0
    started = time.monotonic()
    district.send_to(province.port, windows=(Window(dt.time(), dt.time(), 200_000),))
    with district.database.autocommit() as connection:
        destinations.notify(connection)
    eventually(lambda: district.sent() == 4)
    assert 1.5 < time.monotonic() - started < 6  # 400 kB at 200 kB/s, less the first piece
    assert len(province.stored) == 4


def test_a_paused_destination_waits_for_a_person(
    district: District, province: Archive, eventually: Callable[..., None]
) -> None:
    province.listen()
    district.send_to(province.port, paused=True)
    district.add(2)
    district.run()
    eventually(lambda: district.status().waiting == 2)
    with district.database.transaction() as connection:
        destinations.pause(connection, "province", "ana", paused=False)
    with district.database.autocommit() as connection:
        destinations.notify(connection)
    eventually(lambda: district.sent() == 2)


def test_two_exchange_processes_send_nothing_twice(
    district: District, province: Archive, eventually: Callable[..., None]
) -> None:
    province.listen()
    district.send_to(province.port, parallel=2)
    district.run()
    district.run()
    uids = [uid for n in range(10) for uid in district.add(4, study=str(n))]
    eventually(lambda: district.sent() == 40)
    assert sorted(province.stored) == sorted(uids)
