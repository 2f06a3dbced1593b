"""Our associations to peers that break PS3.7 and PS3.8: a clear error in bounded time, never a false success."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from pacs.dimse import command as dimse
from pacs.dimse import wire as w
from pacs.dimse.contexts import negotiate
from pacs.dimse.requestor import CallerPolicy, echo
from storage.errors import PeerRefused, PeerUnavailable
from storage.peers import Peer

POLICY = CallerPolicy(connect_timeout_s=2, timeout_s=0.5)
Script = Callable[[socket.socket, bytes], None]  # given the connection and the body of the A-ASSOCIATE-RQ
Play = Callable[[Script], Peer]


@pytest.fixture
def play() -> Iterator[Play]:
    """Starts a peer that does what the script says, once."""
    with contextlib.ExitStack() as stack:

        def start(script: Script) -> Peer:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            thread = threading.Thread(target=_serve, args=(listener, script))
            thread.start()
            stack.callback(thread.join, 10)
            return Peer(name="pacs", aet="PACS", host="127.0.0.1", port=listener.getsockname()[1])

        yield start


def _serve(listener: socket.socket, script: Script) -> None:
    listener.settimeout(10)
    sock, _ = listener.accept()
    with sock, contextlib.suppress(OSError):
        sock.settimeout(10)
        _, body = pdu(sock)
        script(sock, body)
        while sock.recv(4096):  # until we are hung up on
            pass


def pdu(sock: socket.socket) -> tuple[int, bytes]:
    head = exactly(sock, 6)
    return head[0], exactly(sock, struct.unpack(">I", head[2:])[0])


def exactly(sock: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = sock.recv(count - len(found))
        if not part:
            raise ConnectionError
        found += part
    return found


def accept(body: bytes) -> bytes:
    """The A-ASSOCIATE-AC that we would send ourselves."""
    return negotiate(body, max_pdu_bytes=4096, allow_private=True).accept_pdu


def answered(**over: int | None) -> Script:
    """Accepts, reads the C-ECHO-RQ and answers it with these fields of the command set."""

    def script(sock: socket.socket, body: bytes) -> None:
        sock.sendall(accept(body))
        pdu(sock)
        fields = {"field": 0x8030, "responded_to": 1, "status": 0, "context": 1} | over
        elements = {
            dimse.AFFECTED_SOP_CLASS: b"1.2.840.10008.1.1", dimse.COMMAND_FIELD: fields["field"],
            dimse.RESPONDED_TO: fields["responded_to"], dimse.DATA_SET_TYPE: 0x0101, dimse.STATUS: fields["status"],
        }  # fmt: skip
        command = dimse.encode({tag: value for tag, value in elements.items() if value is not None})
        sock.sendall(w.Wire.message(fields["context"] or 1, command, 4096))

    return script


def after_accept(data: bytes) -> Script:
    def script(sock: socket.socket, body: bytes) -> None:
        sock.sendall(accept(body))
        pdu(sock)
        sock.sendall(data)

    return script


def says(data: bytes) -> Script:
    return lambda sock, _: sock.sendall(data)


def one_by_one(sock: socket.socket, body: bytes) -> None:
    for byte in accept(body):
        sock.sendall(bytes([byte]))
    pdu(sock)
    elements = {dimse.COMMAND_FIELD: 0x8030, dimse.RESPONDED_TO: 1, dimse.DATA_SET_TYPE: 0x0101, dimse.STATUS: 0}
    for byte in w.Wire.message(1, dimse.encode(elements), 4096):
        sock.sendall(bytes([byte]))


def hang_up(sock: socket.socket, _body: bytes) -> None:
    sock.shutdown(socket.SHUT_RDWR)


def cut_accept(sock: socket.socket, body: bytes) -> None:
    sock.sendall(accept(body)[:-7])
    sock.shutdown(socket.SHUT_WR)


def dripping(sock: socket.socket, body: bytes) -> None:
    """Never silent for long enough, never done."""
    with contextlib.suppress(OSError):
        for byte in accept(body)[:40]:
            sock.sendall(bytes([byte]))
            time.sleep(0.05)


@pytest.mark.parametrize("script", [answered(), one_by_one], ids=["as it should be", "byte by byte"])
def test_a_peer_that_answers(play: Play, script: Script):
    assert echo(play(script), POLICY) == 0


def test_a_status_is_what_the_peer_says(play: Play):
    assert echo(play(answered(status=0x0122)), POLICY) == 0x0122


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (answered(status=None), "without a status"),
        (answered(responded_to=2), "not asked"),
        (answered(responded_to=None), "not asked"),
        (answered(field=0x0030), "breaks the protocol"),  # a request, without a message id
        (answered(context=3), "presentation context 3"),
        (after_accept(b"\7\0\0\0\0\4\0\0\2\1"), "aborted"),
        (after_accept(b"\5\0\0\0\0\4\0\0\0\0"), "end the association"),
        (after_accept(b"\4\0\0\0\0\2\0\0"), "breaks the protocol"),  # no room for a PDV
        (after_accept(b"\4\0\xff\xff\xff\xff" + bytes(64)), "breaks the protocol"),  # longer than we take
        (after_accept(b"\4\0\0\0\0\6\0\0\0\2\1\3"), "breaks the protocol"),  # an empty command
        (after_accept(b"\x99\0\0\0\0\4\0\0\0\0"), "breaks the protocol"),
        (after_accept(b""), "silent"),
        (hang_up, "closed"),
        (cut_accept, "closed"),
        (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "breaks the protocol"),
        (says(b"\2\0\0\0\0\0"), "accepts none"),  # an acceptance of nothing
        (says(b"\2\0\xff\xff\xff\xff"), "breaks the protocol"),  # of four gigabytes
        (says(b"\2\0\0\0\0\x48" + bytes(72)), "accepts none"),
        (says(b""), "silent"),
        (dripping, "silent"),
    ],
)
def test_a_peer_that_does_not_keep_to_the_protocol(play: Play, script: Script, said: str):
    began = time.monotonic()
    with pytest.raises(PeerUnavailable) as caught:
        echo(play(script), POLICY)
    assert said in str(caught.value)
    assert "PACS" not in str(caught.value)  # the name of the registry tells who it was
    assert str(caught.value).startswith("pacs ")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("reason", [b"\1\1\7", b"\2\3\2", b"\xff\xff\xff", b"\0\0\0"])
def test_a_rejection_of_any_kind(play: Play, reason: bytes):
    with pytest.raises(PeerRefused, match="pacs rejects the association"):
        echo(play(says(b"\3\0\0\0\0\4\0" + reason)), POLICY)


def test_contexts_that_nobody_proposed_are_no_agreement(play: Play):
    def script(sock: socket.socket, body: bytes) -> None:
        sock.sendall(accept(body).replace(b"\x21\0\0", b"\x21\0\0", 1).replace(b"\x19\1\0", b"\x19\7\0"))

    with pytest.raises(PeerUnavailable):
        echo(play(script), POLICY)
