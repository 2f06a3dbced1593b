"""The MLLP listener on a real socket: senders as they are, and as they should not be."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from hl7_client import Sender, message, orm, pid
from hl7_listener import listeners

from pacs.hl7.config import Hl7Config
from pacs.ordertasks import listen
from pacs.tasks import Exchange, ExchangeConfig
from storage import messages, orders
from storage.database import Database
from storage.errors import SanglocError

Start = Callable[..., int]


@pytest.fixture
def start(database: Database) -> Iterator[Start]:
    """Starts listeners over one database with these limits; the port. All are stopped, which must not take long."""
    with listeners(database, threading.Event()) as starts:
        yield starts


def placed(database: Database) -> list[str]:
    """Placer numbers of all orders, the oldest first."""
    with database.autocommit() as connection:
        return [each.content["placer_number"] for each in orders.page(connection)][::-1]


def test_a_conversation(database: Database, start: Start):
    with Sender(start()) as sender:
        for n in range(5):
            assert sender.ask(orm(placer=f"PL{n}")).code == "AA"
    assert placed(database) == [f"PL{n}" for n in range(5)]


def test_many_messages_without_waiting_are_answered_in_order(database: Database, start: Start):
    whole = b"".join(b"\x0b" + orm(placer=f"PL{n}", header={"control": f"M{n}"}) + b"\x1c\r" for n in range(10))
    with Sender(start()) as sender:
        sender.send(whole)
        assert [sender.answer().field("MSA", 2) for _ in range(10)] == [f"M{n}" for n in range(10)]
    assert len(placed(database)) == 10


def test_a_message_in_single_bytes(start: Start):
    with Sender(start()) as sender:
        for byte in b"\x0b" + message("ADT^A08", pid()) + b"\x1c\r":
            sender.send(bytes([byte]))
        assert sender.answer().code == "AA"


def test_several_senders_at_once(database: Database, start: Start):
    port = start()
    codes: list[str] = []

    def work(n: int) -> None:
        with Sender(port) as sender:
            codes.extend(sender.ask(orm(placer=f"PL{n}-{m}")).code for m in range(5))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert codes == ["AA"] * 30
    assert len(placed(database)) == 30


def test_framing_faults_do_not_end_the_conversation(database: Database, start: Start):
    with Sender(start()) as sender:
        sender.send(b"\r\n\x0b" + orm(placer="CUT")[:80])  # its end never comes
        assert sender.ask(orm(placer="PL1")).code == "AA"
        sender.send(b"\x0b" + orm(placer="PL2") + b"\x1c")  # no carriage return
        assert sender.answer().code == "AA"
        assert sender.ask(b"").code == "AR"
        assert sender.ask(b"\xff" * 100).code == "AR"
        assert sender.ask(orm(placer="PL3")).code == "AA"
    assert placed(database) == ["PL1", "PL2", "PL3"]


def test_who_does_not_speak_mllp_is_cut_off(start: Start):
    with Sender(start()) as sender:
        sender.send(b"GET / HTTP/1.1\r\n" * 1000)
        assert sender.closed()


def test_a_huge_message_is_refused_and_the_connection_ends(database: Database, start: Start):
    with Sender(start(max_message_bytes=20_000)) as sender:
        assert sender.ask(orm() + b"OBX|1|TX|X||" + b"x" * 19_000 + b"\r").code == "AA"
        sender.send(b"\x0b" + orm(placer="BIG") + b"OBX|1|TX|X||" + b"x" * 20_000)
        ack = sender.answer()
        assert (ack.code, ack.error) == ("AR", "207")
        assert "20000 bytes" in ack.reason
        assert sender.closed()
    assert placed(database) == ["PL1"]
    with database.autocommit() as connection:
        assert messages.page(connection)[0].code == "AR"


def test_a_message_that_drips_is_given_up(database: Database, start: Start):
    port = start(message_timeout_s=0.4)
    with Sender(port) as slow:
        slow.send(b"\x0b" + orm()[:50])
        slow.socket.settimeout(0.05)
        deadline = time.monotonic() + 5
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < deadline:
                slow.send(b"x")
                with contextlib.suppress(TimeoutError):
                    if not slow.socket.recv(1):
                        break
        assert time.monotonic() < deadline, "it may drip for ever"
    with Sender(port) as sender:
        assert sender.ask(orm()).code == "AA"


def test_a_silent_sender_may_stay_as_long_as_configured(start: Start):
    with Sender(start(idle_timeout_s=0.3)) as sender:
        assert sender.ask(orm()).code == "AA"
        assert sender.closed()


def test_a_sender_that_goes_away_within_a_message_does_no_harm(database: Database, start: Start):
    port = start()
    with Sender(port) as sender:
        sender.send(b"\x0b" + orm(placer="CUT")[:80])
    with Sender(port) as sender:
        assert sender.ask(orm(placer="PL1")).code == "AA"
    assert placed(database) == ["PL1"]


def test_only_so_many_connections(start: Start):
    port = start(max_connections=2)
    with Sender(port) as first, Sender(port) as second:
        assert {first.ask(orm()).code, second.ask(orm()).code} == {"AA"}
        with Sender(port) as third:
            assert third.closed()
    deadline = time.monotonic() + 10
    while True:  # as soon as one is gone there is room again
        with Sender(port) as again:
            try:
                assert again.ask(orm()).code == "AA"
            except OSError:
                assert time.monotonic() < deadline
            else:
                return


def test_strangers_are_not_heard(database: Database, start: Start):
    with Sender(start(senders=(ipaddress.ip_network("10.1.0.5/32"),))) as sender:
        assert sender.closed()
    assert placed(database) == []


# ---- as a task of the exchange process


@contextlib.contextmanager
def exchange(database: Database, store: Any, port: int | None) -> Iterator[Exchange]:
    config = None if port is None else Hl7Config(promise=lambda _priority, _station: (0, None), port=port)
    parts = Exchange(database, store, ExchangeConfig(hl7=config))
    yield parts
    parts.bells.close()


def test_the_task_listens_on_loopback_until_it_is_stopped(database: Database, store: Any):
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    stop = threading.Event()
    with exchange(database, store, port) as parts:
        thread = threading.Thread(target=listen, args=(parts, stop))
        thread.start()
        deadline = time.monotonic() + 10
        while True:
            try:
                with Sender(port) as sender:
                    assert sender.ask(orm()).code == "AA"
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
        stop.set()
        thread.join(10)
        assert not thread.is_alive()
    with pytest.raises(ConnectionRefusedError):
        Sender(port)


def test_a_port_that_is_taken_is_said(database: Database, store: Any):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with exchange(database, store, port) as parts, pytest.raises(SanglocError, match=f"HL7 port {port}"):
            listen(parts, threading.Event())


def test_without_a_port_nothing_listens(database: Database, store: Any):
    stop = threading.Event()
    stop.set()
    with exchange(database, store, None) as parts:
        listen(parts, stop)
