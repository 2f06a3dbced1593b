"""PDUs and PDVs off a socket (PS3.8 9.3, E.2), cut in every possible way."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pacs.dimse import wire as w
from storage.errors import ObjectStoreFull, ObjectTooLarge

MAX_PDU = 4096
LIMIT = 1 << 20


class Ends:
    """Both ends of a connection: a `Wire` and the plain socket of its peer."""

    def __init__(self, timeout_s: float = 5.0, buffer_bytes: int = 1 << 16) -> None:
        listen = socket.create_server(("127.0.0.1", 0))
        self.peer = socket.create_connection(listen.getsockname())
        sock, _ = listen.accept()
        listen.close()
        self.pool = w.BufferPool(buffer_bytes)
        self.wire = w.Wire(sock, self.pool, max_pdu_bytes=MAX_PDU, timeout_s=timeout_s)

    def send(self, data: bytes) -> threading.Thread:
        thread = threading.Thread(target=self._send, args=(data,))
        thread.start()
        return thread

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self.peer.sendall(data)

    def close(self) -> None:
        self.peer.close()
        self.wire.close()


@pytest.fixture
def open_ends() -> Iterator[Callable[..., Ends]]:
    made: list[Ends] = []

    def make(**kwargs: float) -> Ends:
        made.append(Ends(**kwargs))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for ends in made:
        ends.close()


@pytest.fixture
def ends(open_ends: Callable[..., Ends]) -> Ends:
    return open_ends()


def _pdv(fragment: bytes, control: int = 0, context_id: int = 1, length: int | None = None) -> bytes:
    return struct.pack(">IBB", len(fragment) + 2 if length is None else length, context_id, control) + fragment


def _pdu(*pdvs: bytes, kind: int = 4, length: int | None = None) -> bytes:
    body = b"".join(pdvs)
    return struct.pack(">BxI", kind, len(body) if length is None else length) + body


def _read(wire: w.Wire, limit: int = LIMIT) -> bytes:
    got = bytearray()

    def sink(parts):
        for part in parts:
            got.extend(part)

    assert wire.data_set(1, sink, limit) == len(got)
    return bytes(got)


@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(max_size=20_000),
    sizes=st.lists(st.integers(0, MAX_PDU - 6), min_size=1, max_size=30),
    together=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    segment=st.integers(1, 5000),
    buffer_bytes=st.sampled_from([1 << 14, (1 << 14) + 13, 1 << 16]),
)
def test_a_data_set_survives_every_fragmentation(data, sizes, together, segment, buffer_bytes):
    """Fragments of any length, several in one PDU (PS3.8 9.3.1), segments that cut headers in two."""
    fragments, at, n = [], 0, 0
    while at < len(data):
        size = sizes[n % len(sizes)] if n < 500 else MAX_PDU - 6
        fragments.append(data[at : at + size])
        at, n = at + size, n + 1
    pdvs = [_pdv(f) for f in fragments] + [_pdv(b"", 2)]
    stream, n = b"", 0
    while pdvs:
        group = [pdvs.pop(0)]
        while len(group) < together[n % len(together)] and pdvs and len(b"".join(group) + pdvs[0]) <= MAX_PDU:
            group.append(pdvs.pop(0))
        stream, n = stream + _pdu(*group), n + 1

    ends = Ends(buffer_bytes=buffer_bytes)
    try:
        following = _pdu(_pdv(b"next", 3, 5))
        whole = stream + following

        def send() -> None:
            for start in range(0, len(whole), segment):
                ends.peer.sendall(whole[start : start + segment])

        thread = threading.Thread(target=send)
        thread.start()
        assert _read(ends.wire) == data
        assert ends.wire.command() == (5, b"next")
        thread.join()
    finally:
        ends.close()


def test_a_command_set_comes_in_fragments(ends: Ends):
    ends.send(_pdu(_pdv(b"ab", 1), _pdv(b"", 1)) + _pdu(_pdv(b"cd", 3))).join()
    assert ends.wire.command() == (1, b"abcd")


def test_the_control_pdu_is_given_back_whole(ends: Ends):
    thread = ends.send(_pdu(b"x" * 70_000, kind=1))
    assert ends.wire.control(w.ASSOCIATE_RQ) == b"x" * 70_000
    thread.join()


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (_pdu(_pdv(b"x"), kind=8), 1),  # PS3.8 table 9-26: unrecognized PDU
        (b"GET / HTTP/1.1\r\n\r\n", 1),
        (_pdu(b"", kind=1), 2),  # unexpected PDU
        (_pdu(b"", kind=6), 2),
        (_pdu(_pdv(b"x" * MAX_PDU)), 6),  # longer than agreed
        (_pdu(_pdv(b"x"), length=1 << 31), 6),
        (_pdu(), 6),  # no PDV
        (_pdu(b"\0\0\0"), 6),
        (_pdu(_pdv(b"abc", 2, length=99)), 6),  # longer than its PDU
        (_pdu(_pdv(b"", 2, length=1)), 6),
        (_pdu(_pdv(b"abc", 2), b"\0"), 6),  # a rest that is no PDV
        (_pdu(_pdv(b"abc", 2, context_id=3)), 6),  # another context within a message
        (_pdu(_pdv(b"abc", 3)), 6),  # a command within a data set
    ],
)
def test_a_peer_that_breaks_the_protocol_is_told_why(ends: Ends, stream: bytes, reason: int):
    ends.send(stream).join()

    def read_all() -> None:
        _read(ends.wire)
        ends.wire.command()

    with pytest.raises(w.ProtocolError) as raised:
        read_all()
    assert raised.value.reason == reason


def test_a_data_set_where_a_command_must_stand(ends: Ends):
    ends.send(_pdu(_pdv(b"x", 2))).join()
    with pytest.raises(w.ProtocolError, match="command set"):
        ends.wire.command()


def test_an_endless_command_set_is_cut_off(ends: Ends):
    thread = ends.send(_pdu(_pdv(b"x" * 4000, 1)) * 20)
    with pytest.raises(w.ProtocolError, match="command set"):
        ends.wire.command()
    ends.close()
    thread.join()


@pytest.mark.parametrize(
    ("stream", "error"),
    [(_pdu(b"\0\0\0\0", kind=7), w.PeerAbortedError), (_pdu(b"\0\0\0\0", kind=5), w.ReleaseRequestedError)],
)
def test_abort_and_release_within_a_message(ends: Ends, stream: bytes, error: type[Exception]):
    ends.send(_pdu(_pdv(b"abc")) + stream).join()
    with pytest.raises(error):
        _read(ends.wire)


def test_the_peer_vanishes_within_a_pdu(ends: Ends):
    ends.send(_pdu(_pdv(b"abc" * 100))[:50]).join()
    ends.peer.close()
    with pytest.raises(w.ConnectionLostError):
        _read(ends.wire)


def test_an_error_of_the_sink_waits_for_the_end_of_the_message(open_ends: Callable[..., Ends]):
    ends = open_ends(buffer_bytes=1 << 15)
    calls = []

    def full(parts) -> None:
        calls.append(parts)
        raise ObjectStoreFull

    thread = ends.send(_pdu(_pdv(b"x" * 4000)) * 50 + _pdu(_pdv(b"", 2)) + _pdu(_pdv(b"next", 3)))
    with pytest.raises(ObjectStoreFull):
        ends.wire.data_set(1, full, LIMIT)
    assert len(calls) == 1
    assert ends.wire.command() == (1, b"next")
    thread.join()


def test_a_data_set_over_the_limit_is_read_to_its_end(ends: Ends):
    thread = ends.send(_pdu(_pdv(b"x" * 4000)) * 4 + _pdu(_pdv(b"", 2)) + _pdu(_pdv(b"next", 3)))
    with pytest.raises(ObjectTooLarge):
        _read(ends.wire, limit=10_000)
    assert ends.wire.command() == (1, b"next")
    thread.join()


def test_a_data_set_without_end_is_cut_off(ends: Ends):
    thread = ends.send(_pdu(_pdv(b"x" * 4000)) * 40)
    with pytest.raises(w.ProtocolError):
        _read(ends.wire, limit=10_000)
    ends.close()
    thread.join()


def test_silence_within_a_message_times_out(open_ends: Callable[..., Ends]):
    ends = open_ends(timeout_s=0.1)
    ends.send(_pdu(_pdv(b"abc"))[:-1]).join()
    with pytest.raises(w.PeerTimeoutError):
        _read(ends.wire)


def test_dripping_bytes_do_not_stretch_the_artim_timer(ends: Ends):
    """PS3.8 9.1.5: one byte now and then is not an A-ASSOCIATE-RQ."""
    done = threading.Event()

    def drip() -> None:
        for byte in _pdu(b"x" * 500, kind=1):
            if done.wait(0.02):
                return
            ends.peer.sendall(bytes((byte,)))

    thread = threading.Thread(target=drip)
    thread.start()
    started = time.monotonic()
    ends.wire.within(0.3)
    with pytest.raises(w.PeerTimeoutError):
        ends.wire.control(w.ASSOCIATE_RQ)
    assert 0.25 < time.monotonic() - started < 2
    done.set()
    thread.join()


def test_an_idle_connection_holds_no_buffer(ends: Ends):
    ends.send(_pdu(_pdv(b"abc", 3))).join()
    ends.wire.command()
    assert not ends.pool._free
    with pytest.raises(w.PeerTimeoutError):
        ends.wire.wait(0.01)
    assert len(ends.pool._free) == 1


def test_the_pool_keeps_only_so_many_buffers():
    pool = w.BufferPool(1 << 14, keep=2)
    buffers = [pool.take() for _ in range(5)]
    for buffer in buffers:
        pool.give(buffer)
    assert len(pool._free) == 2


@pytest.mark.parametrize(
    ("size", "max_pdu"), [(0, 0), (10, 4096), (10_000, 4096), (4090, 4096), (200_000, 0), (99, 8), (9, 3)]
)
def test_a_message_is_sent_in_pdus_that_the_peer_takes(open_ends: Callable[..., Ends], size: int, max_pdu: int):
    sender, receiver = open_ends(), open_ends()
    data = bytes(range(256)) * (size // 256 + 1)
    stream = bytearray()

    def copy() -> None:
        while part := sender.peer.recv(1 << 16):
            stream.extend(part)

    thread = threading.Thread(target=copy)
    thread.start()
    sender.wire.send_message(1, b"c" * 100, max_pdu, data[:size])
    sender.wire.close()
    thread.join()
    at = 0
    while at < len(stream):
        (length,) = struct.unpack_from(">I", stream, at + 2)
        assert length <= (max(7, max_pdu) if max_pdu else 1 << 16)
        at += 6 + length
    if max_pdu:
        forward = receiver.send(bytes(stream))
        assert receiver.wire.command() == (1, b"c" * 100)
        assert _read(receiver.wire) == data[:size]
        forward.join()
