"""A move destination that is away, refuses, stalls or dies half-way; a client that cancels or goes away."""

from __future__ import annotations

import os
import socket
import threading
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from destinations import Faulty, accept_all, data_set_of, free_port, read_pdu, storescp
from images import CT, ROOT, image, pixels
from raw_dicom import EXPLICIT
from retriever import Retriever, register, take_in

from pacs.dimse.command import decode, response
from pacs.dimse.policy import CallerPolicy
from pacs.retrieve import StoredInstance
from storage.errors import DatabaseUnavailable

STUDY = f"{ROOT}.9.2"
QUICK = CallerPolicy(timeout_s=1.0, connect_timeout_s=1.0, attempts=2, pause_s=0.05)


@pytest.fixture
def study(ingest: Any) -> list[StoredInstance]:
    """Six images of 400 kB."""
    return [take_in(ingest, image(pixels(500, 400), StudyInstanceUID=STUDY, InstanceNumber=n)) for n in range(6)]


@pytest.fixture
def retriever(start_receiver: Any) -> Any:
    with Retriever(start_receiver(caller=QUICK).port, [(CT, [EXPLICIT])]) as opened:
        yield opened


def test_a_destination_that_is_away(study: Any, retriever: Any, ingest: Any) -> None:
    register(ingest, free_port())
    began = time.monotonic()
    outcome = retriever.move("DEST", "STUDY", study=STUDY)
    assert (outcome.status, outcome.completed, outcome.failed) == (0xA702, 0, 6)
    assert sorted(outcome.failed_uids) == sorted(one.sop_uid for one in study)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("mode", ["reject", "stall", "mute", "die", "abort"])
def test_a_destination_that_misbehaves_is_given_up_in_bounded_time(
    mode: str, study: Any, retriever: Any, ingest: Any
) -> None:
    with Faulty(mode) as faulty:
        register(ingest, faulty.port)
        began = time.monotonic()
        outcome = retriever.move("DEST", "STUDY", study=STUDY)
        assert (outcome.status, outcome.completed, outcome.failed) == (0xA702, 0, 6)
        assert faulty.calls >= QUICK.attempts
        assert time.monotonic() - began < 12
    assert retriever.move("NOBODY", "STUDY", study=STUDY).status == 0xA801  # the association lives


def test_pending_answers_come_while_a_destination_stalls(study: Any, retriever: Any, ingest: Any) -> None:
    with Faulty("mute") as faulty:
        register(ingest, faulty.port)
        outcome = retriever.move("DEST", "STUDY", study=STUDY)
    assert len(outcome.pending) >= 2
    assert outcome.pending[0] == (6, 0, 0, 0)


def test_a_cancel_reaches_a_move_that_waits_for_a_silent_destination(
    study: Any, start_receiver: Any, ingest: Any, eventually: Any
) -> None:
    receiver = start_receiver(caller=CallerPolicy(timeout_s=60.0))
    with Faulty("mute") as faulty, Retriever(receiver.port) as retriever:
        register(ingest, faulty.port)
        began = time.monotonic()
        message = retriever.start_move("DEST", "STUDY", study=STUDY)
        eventually(lambda: faulty.calls == 1)
        retriever.cancel(message)
        outcome = retriever.outcome(message)
        assert (outcome.status, outcome.remaining, outcome.completed) == (0xFE00, 6, 0)
        assert time.monotonic() - began < 10


def test_a_client_that_goes_away_ends_the_move(study: Any, start_receiver: Any, ingest: Any, eventually: Any) -> None:
    receiver = start_receiver(caller=CallerPolicy(timeout_s=60.0))
    with Faulty("mute") as faulty:
        register(ingest, faulty.port)
        retriever = Retriever(receiver.port).__enter__()
        retriever.start_move("DEST", "STUDY", study=STUDY)
        eventually(lambda: faulty.calls == 1)
        retriever.association.abort()
        eventually(lambda: not receiver.receiver._open)


class Flaky:
    """A destination that stores, and closes the connection at every third object before it answers."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.asked = 0
        self._listen = socket.create_server(("127.0.0.1", 0))
        self.port = self._listen.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listen.accept()
            except OSError:
                return
            with sock:
                self._serve(sock)

    def _serve(self, sock: socket.socket) -> None:
        _, body = read_pdu(sock)
        sock.sendall(accept_all(body, max_pdu=65536))
        while True:
            kind, body = read_pdu(sock)
            if kind == 5:
                sock.sendall(b"\x06\0\0\0\0\x04\0\0\0\0")
                return
            command = decode(body[4], body[6:])
            while not read_pdu(sock)[1][5] & 2:
                pass
            self.asked += 1
            if self.asked % 3 == 0:
                return
            self.stored.append(command.uid(0x1000))
            answer = response(command, 0)
            length = (len(answer) + 6).to_bytes(4, "big"), (len(answer) + 2).to_bytes(4, "big")
            sock.sendall(b"\4\0" + length[0] + length[1] + bytes((command.context_id, 3)) + answer)

    def close(self) -> None:
        self._listen.close()


def test_a_destination_that_dies_half_way_is_called_again_and_gets_everything(
    study: Any, retriever: Any, ingest: Any
) -> None:
    flaky = Flaky()
    register(ingest, flaky.port)
    outcome = retriever.move("DEST", "STUDY", study=STUDY)
    assert (outcome.status, outcome.completed, outcome.failed) == (0, 6, 0)
    assert sorted(flaky.stored) == sorted(one.sop_uid for one in study)
    flaky.close()


def test_a_destination_that_takes_only_some_classes_gets_those(
    study: Any, retriever: Any, ingest: Any, tmp_path: Path, dcmtk: Any
) -> None:
    other = take_in(ingest, image(pixels(), StudyInstanceUID=STUDY, SOPClassUID="1.2.840.10008.5.1.4.1.1.104.2"))
    dcmtk("storescp", "--version")
    profile = tmp_path / "profile.cfg"
    profile.write_text(
        f"[[TransferSyntaxes]]\n[Plain]\nTransferSyntax1 = {EXPLICIT}\n[[PresentationContexts]]\n[CT]\n"
        f"PresentationContext1 = {CT}\\Plain\n[[Profiles]]\n[Default]\nPresentationContexts = CT\n"
    )
    with storescp(tmp_path / "dest", "-xf", str(profile), "Default") as port:
        register(ingest, port)
        outcome = retriever.move("DEST", "STUDY", study=STUDY)
    assert (outcome.status, outcome.completed, outcome.failed_uids) == (0xB000, 6, [other.sop_uid])
    assert len(list((tmp_path / "dest").iterdir())) == 6


def test_a_database_that_is_away_is_told(study: Any, retriever: Any, ingest: Any, monkeypatch: Any) -> None:
    def away() -> None:
        raise DatabaseUnavailable

    assert retriever.get("STUDY", study=STUDY).status == 0
    monkeypatch.setattr(ingest.database, "autocommit", away)
    assert retriever.get("STUDY", study=STUDY).status == 0xA701
    assert retriever.move("DEST", "STUDY", study=STUDY).status == 0xA701


def test_many_moves_at_once_to_one_destination(
    study: Any, start_receiver: Any, ingest: Any, tmp_path: Path, dcmtk: Any
) -> None:
    dcmtk("storescp", "--version")
    receiver = start_receiver()
    outcomes = []

    def one() -> None:
        with Retriever(receiver.port) as retriever:
            outcomes.append(retriever.move("DEST", "STUDY", study=STUDY))

    with storescp(tmp_path / "dest", "--fork") as port:
        register(ingest, port)
        threads = [threading.Thread(target=one) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        files = list((tmp_path / "dest").iterdir())
    assert [(one.status, one.completed) for one in outcomes] == [(0, 6)] * 6
    assert {sha256(data_set_of(file)).digest() for file in files} == {one.sha256 for one in study}


def test_a_get_client_that_stops_reading_is_cut_off(study: Any, start_receiver: Any, eventually: Any) -> None:
    receiver = start_receiver(network_timeout_s=1.0)
    client = Retriever(receiver.port, [(CT, [EXPLICIT])])
    client.__enter__()
    client.association._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(8):  # more than the buffers of both sockets hold
        client._ask("1.2.840.10008.5.1.4.1.2.2.3", {0x0100: 0x0010}, "STUDY", {"study": STUDY})
    eventually(lambda: receiver.receiver.counters["aborted"] == 1)
    eventually(lambda: not receiver.receiver._open)
    client.association.abort()


def test_a_half_read_object_breaks_the_association_and_nothing_else(
    study: Any, retriever: Any, ingest: Any, monkeypatch: Any
) -> None:
    """The disk fails after the first run of fragments has gone."""
    real, calls = os.preadv, []

    def failing(fd: int, buffers: Any, offset: int) -> int:
        calls.append(offset)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        return real(fd, buffers, offset)

    take_in(ingest, image(pixels(1500, 1000), StudyInstanceUID=f"{STUDY}.5"))
    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(Exception, match="aborted"):
        retriever.get("STUDY", study=f"{STUDY}.5")
