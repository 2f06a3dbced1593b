"""HL7 over MLLP within TLS (IHE ITI TF-2 3.19): real TLS clients, and those that are none."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from certificates import make_certificates
from hl7_client import Ack, Sender, orm
from hl7_listener import listeners
from ordering import promise

from pacs.dimse.policy import TlsFiles
from pacs.dimse.tls import server_context
from pacs.hl7.config import Hl7Config
from pacs.ordertasks import listen
from pacs.tasks import Exchange, ExchangeConfig
from storage import orders
from storage.database import Database
from storage.errors import SettingsError

Start = Callable[..., int]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def start(database: Database, pki: Path, stop: threading.Event) -> Iterator[Start]:
    """Starts a listener that speaks TLS; with True it asks for client certificates. It stops soon."""
    with listeners(database, stop) as starts:

        def secured(client_certificates: bool = False, **limits: Any) -> int:
            files = TlsFiles(pki / "server.pem", pki / "server.key", pki / "ca.pem" if client_certificates else None)
            return starts(server_context(files), **limits)

        yield secured


class SecureSender(Sender):
    """An MLLP connection over TLS that checks the listener's certificate."""

    def __init__(self, port: int, pki: Path, certificate: str = "", **over: Any) -> None:
        super().__init__(port)
        context = ssl.create_default_context(cafile=pki / "ca.pem")
        for name, value in over.items():
            setattr(context, name, value)
        if certificate:
            context.load_cert_chain(pki / f"{certificate}.pem", pki / f"{certificate}.key")
        self.socket: Any = context.wrap_socket(self.socket, server_hostname="127.0.0.1")


def placed(database: Database) -> list[str]:
    with database.autocommit() as connection:
        return [each.content["placer_number"] for each in orders.page(connection)][::-1]


def test_a_conversation(database: Database, start: Start, pki: Path):
    with SecureSender(start(), pki) as sender:
        assert sender.socket.version() == "TLSv1.3"
        assert [sender.ask(orm(placer=f"PL{n}")).code for n in range(5)] == ["AA"] * 5
    assert placed(database) == [f"PL{n}" for n in range(5)]


def test_openssl_as_the_sender(database: Database, start: Start, pki: Path):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    command = ("openssl", "s_client", "-connect", f"127.0.0.1:{start()}", "-CAfile", pki / "ca.pem", "-tls1_2",
               "-verify_return_error", "-quiet", "-verify_quiet")  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(b"\x0b" + orm(placer="PL1") + b"\x1c\r")
        client.stdin.flush()
        found = b""
        while not found.endswith(b"\x1c\r"):
            found += client.stdout.read1()
        client.kill()
    assert Ack(found[1:-2]).code == "AA"
    assert placed(database) == ["PL1"]


def test_a_message_larger_than_a_record_and_many_at_once(database: Database, start: Start, pki: Path):
    long = orm(placer="LONG") + b"ZZZ|" + b"x" * 100_000 + b"\r"
    whole = b"".join(b"\x0b" + one + b"\x1c\r" for one in (long, orm(placer="PL2"), orm(placer="PL3")))
    with SecureSender(start(), pki) as sender:
        sender.send(whole)
        assert [sender.answer().code for _ in range(3)] == ["AA"] * 3
    assert placed(database) == ["LONG", "PL2", "PL3"]


def test_only_senders_with_a_certificate_of_the_authority(database: Database, start: Start, pki: Path):
    port = start(client_certificates=True)
    with SecureSender(port, pki, "client") as sender:
        assert sender.ask(orm(placer="PL1")).code == "AA"
    for certificate in ("", "self"):
        with (
            pytest.raises(OSError, match=r"(?i)alert|closed|reset|pipe|EOF"),
            SecureSender(port, pki, certificate) as sender,
        ):
            sender.ask(orm(placer="PL2"))
    assert placed(database) == ["PL1"]


@pytest.mark.parametrize(
    "spoken",
    [b"\x0b" + orm(placer="PL1") + b"\x1c\r", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(400), b"\0"],
    ids=["plain MLLP", "HTTP", "a broken hello", "nothing to speak of"],
)
def test_what_is_no_tls_is_cut_off_and_gets_no_answer(database: Database, start: Start, spoken: bytes):
    port = start(message_timeout_s=1.0)
    with Sender(port) as sender:
        sender.send(spoken)
        with contextlib.suppress(ConnectionResetError):
            assert b"MSA" not in b"".join(iter(lambda: sender.socket.recv(4096), b""))
    assert placed(database) == []


def test_old_tls_is_refused(start: Start, pki: Path):
    port = start()
    with pytest.warns(DeprecationWarning, match="TLSv1"), pytest.raises(OSError):  # noqa: PT011 - as the library words it
        SecureSender(port, pki, minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)


def test_silent_clients_do_not_keep_the_others_out(database: Database, start: Start, pki: Path):
    port = start(max_connections=3, message_timeout_s=0.5)
    silent = [Sender(port) for _ in range(3)]
    deadline = time.monotonic() + 10
    while not placed(database) and time.monotonic() < deadline:
        with contextlib.suppress(OSError), SecureSender(port, pki) as sender:
            sender.ask(orm(placer="PL1"))
    assert placed(database) == ["PL1"]
    for one in silent:
        one.close()


def test_the_end_of_the_process_sends_nothing_in_the_clear(start: Start, pki: Path, stop: threading.Event):
    with SecureSender(start(), pki) as sender:
        assert sender.ask(orm(placer="PL1")).code == "AA"
        stop.set()
        raw = sender.socket.detach()
        with socket.socket(fileno=raw) as plain:
            plain.settimeout(10)
            rest = b""
            with contextlib.suppress(ConnectionResetError):
                rest = b"".join(iter(lambda: plain.recv(4096), b""))
        assert b"MSH" not in rest


def test_the_task_takes_its_files_from_the_settings(database: Database, store: Any, pki: Path, stop: threading.Event):
    listener = socket.create_server(("127.0.0.1", 0))
    config = Hl7Config(
        promise=promise, listen_fd=listener.fileno(), certificate=pki / "server.pem", key=pki / "server.key"
    )
    exchange = Exchange(database, store, ExchangeConfig(hl7=config))
    thread = threading.Thread(target=listen, args=(exchange, stop))
    thread.start()
    try:
        with SecureSender(listener.getsockname()[1], pki) as sender:
            assert sender.ask(orm(placer="PL1")).code == "AA"
    finally:
        stop.set()
        thread.join(10)
        listener.close()
        exchange.bells.close()
    missing = Hl7Config(promise=promise, port=0, certificate=pki / "none.pem", key=pki / "server.key")
    exchange = Exchange(database, store, ExchangeConfig(hl7=missing))
    with contextlib.closing(exchange.bells), pytest.raises(SettingsError, match="TLS files"):
        listen(exchange, stop)
