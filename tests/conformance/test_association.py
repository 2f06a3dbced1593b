"""Associations (PS3.8 9): what peers may ask, and what becomes of those who misbehave or say nothing."""

from __future__ import annotations

import itertools
import socket
import statistics
import struct
import threading
import time

import pytest
from raw_dicom import CT, EXPLICIT, Raw, data_set

from pacs.dimse.command import encode
from pacs.dimse.policy import ReceiverPolicy
from pacs.dimse.server import Receiver

UID = "1.2.3.5"


def _rejection(client: Raw, **request) -> tuple[int, ...]:
    client.sock.sendall(client.request(**request))
    kind, body = client.pdu()
    assert kind == 3
    return tuple(body[1:])


def _abort_reason(client: Raw) -> tuple[int, int]:
    kind, body = client.pdu()
    assert kind == 7, (kind, body)
    return body[2], body[3]


def _connection_ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        ({"called": "OTHER"}, (1, 1, 7)),  # PS3.8 table 9-21
        ({"called": ""}, (1, 1, 7)),
        ({"version": 2}, (1, 2, 2)),
        ({"application": "1.2.840.10008.3.1.1.2"}, (1, 1, 2)),
    ],
)
def test_an_association_that_is_not_for_us_is_rejected(raw, receiver, request_, answer):
    assert _rejection(raw(), **request_) == answer
    assert receiver.receiver.counters["rejected"] == 1


def test_a_calling_title_that_nobody_knows(raw, start_receiver):
    port = start_receiver(open_networks=()).port
    assert _rejection(raw(port), calling="STRANGER") == (1, 1, 3)


def test_echoscu_is_told_that_the_called_title_is_wrong(receiver, dcmtk):
    run = dcmtk("echoscu", "-aec", "ORTHANC", "127.0.0.1", receiver.port)
    assert run.returncode != 0
    assert "Called AE Title Not Recognized" in run.stderr


def test_an_alias_answers(raw, start_receiver):
    client = raw(start_receiver(aliases=("ARCHIVE",)).port).associate(called="ARCHIVE")
    assert client.echo() == 0


def test_over_the_limit_is_a_clear_transient_rejection(raw, start_receiver, eventually):
    port = start_receiver(max_associations=3).port
    held = [raw(port).associate() for _ in range(3)]
    assert _rejection(raw(port)) == (2, 3, 2)
    held[0].release()

    def free() -> bool:
        client = raw(port)
        client.sock.sendall(client.request())
        return client.pdu()[0] == 2

    eventually(free)


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n", (2, 1)),  # unrecognized PDU
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), (2, 1)),  # a TLS hello on the plain port
        (b"\4\0\0\0\0\6\0\0\0\2\1\3", (2, 2)),  # data before the association
        (b"\1\0\xff\xff\xff\xff", (2, 6)),  # an A-ASSOCIATE-RQ of 4 GB
        (b"\1\0\0\0\0\x04\0\1\0\0", (2, 6)),
        (Raw.request()[:-20] + bytes(20), None),  # garbled at its end
    ],
)
def test_garbage_is_aborted(raw, receiver, eventually, garbage, reason):
    client = raw()
    client.sock.sendall(garbage)
    if reason:
        assert _abort_reason(client) == reason
    else:
        assert client.pdu()[0] in {2, 7}
    client.close()
    eventually(lambda: not receiver.receiver._open)
    assert raw().associate().echo() == 0


def test_a_context_that_was_not_accepted(raw):
    client = raw().associate()
    client.sock.sendall(client.pdv(99, 3, client.store_rq(UID)))
    assert _abort_reason(client) == (2, 6)


def test_a_pdu_longer_than_agreed(raw, start_receiver):
    client = raw(start_receiver(max_pdu_bytes=16384).port).associate()
    assert client.max_pdu == 16384
    client.sock.sendall(client.pdv(3, 3, client.store_rq(UID)))
    client.sock.sendall(client.pdv(3, 2, data_set(UID, pixels=b"x" * 16384)))
    assert _abort_reason(client) == (2, 6)


@pytest.mark.parametrize("ending", ["abort", "close", "truncated", "release", "response", "garbage"])
def test_an_object_that_ends_in_its_middle_leaves_nothing(raw, receiver, store, eventually, ending):
    client = raw().associate()
    data = data_set(UID, pixels=b"x" * 2_000_000)
    client.sock.sendall(client.pdv(3, 3, client.store_rq(UID)))
    client.sock.sendall(client.pdv(3, 0, data[:1_000_000]))
    eventually(lambda: any(store.keys()))
    match ending:
        case "abort":
            client.abort()
        case "close":
            client.close()
        case "truncated":
            client.sock.sendall(client.pdv(3, 2, data[1_000_000:1_500_000])[:-1000])
            client.close()
        case "release":
            client.sock.sendall(b"\5\0\0\0\0\4\0\0\0\0")
            assert client.pdu()[0] == 6
            client.close()
        case "response":
            client.sock.sendall(client.pdv(3, 3, client.store_rq(UID)))
            assert _abort_reason(client) == (2, 6)
            client.close()
        case "garbage":
            client.sock.sendall(b"\0" * 100)
            assert _abort_reason(client) == (2, 1)
            client.close()
    eventually(lambda: not receiver.receiver._open)
    assert not list(store.keys())
    assert raw().associate().store(UID, data)[0] == 0
    assert receiver.receiver.counters["stored"] == 1


def test_a_response_to_nothing_is_aborted(raw):
    client = raw().associate()
    client.sock.sendall(client.pdv(1, 3, encode({0x0100: 0x8030, 0x0120: 7, 0x0800: 0x0101, 0x0900: 0})))
    assert _abort_reason(client) == (2, 6)


def test_silent_peers_are_closed_in_time(raw, start_receiver):
    """ARTIM (PS3.8 9.1.5) before an association, the network timer within a message, the idle timer between two."""
    receiver = start_receiver(artim_timeout_s=0.3, network_timeout_s=0.3, idle_timeout_s=0.3)
    started = time.monotonic()
    silent = raw(receiver.port)
    stalled, idle = raw(receiver.port).associate(), raw(receiver.port).associate()
    stalled.sock.sendall(stalled.pdv(3, 3, stalled.store_rq(UID)))
    for client in (silent, stalled, idle):
        assert _abort_reason(client) == (2, 0)
    assert time.monotonic() - started < 3


def test_a_peer_that_does_not_close_is_closed(raw, start_receiver, eventually):
    receiver = start_receiver(artim_timeout_s=0.3)
    client = raw(receiver.port).associate()
    client.sock.sendall(b"\5\0\0\0\0\4\0\0\0\0")
    assert client.pdu()[0] == 6
    eventually(lambda: not receiver.receiver._open)


def test_idle_associations_and_silent_connections_delay_nobody(raw, receiver, eventually):
    """100 idle associations and 100 silent connections; an echo and a store in under 100 ms each (issue 2).

    The median of the rounds that follow such a burst at once counts; no round may take a second. A machine that is busy
    with other things gets two more bursts. `bench` measures the slowest on an idle machine.
    """
    uids = (f"{UID}.{n}" for n in itertools.count())
    for _ in range(3):
        held = [raw().associate() for _ in range(100)] + [raw() for _ in range(100)]
        seconds = [_seconds_to_echo_and_store(raw, next(uids)) for _ in range(10)]
        assert len(receiver.receiver._open) >= 200
        if statistics.median(map(max, seconds)) < 0.1 and max(map(max, seconds)) < 1:
            break
        for client in held:
            client.close()
        eventually(lambda: not receiver.receiver._open)
    else:
        pytest.fail(f"an echo or a store took too long: {seconds}")
    eventually(lambda: bool(receiver.receiver._shared.pool._free))  # idle associations hold no buffer


def _seconds_to_echo_and_store(raw, uid: str) -> tuple[float, float]:
    """Each with its association, from connect to release."""
    started = time.perf_counter()
    client = raw().associate()
    assert client.echo() == 0
    client.release()
    echoed = time.perf_counter()
    client = raw().associate()
    assert client.store(uid, data_set(uid, pixels=b"x" * 500_000))[0] == 0
    client.release()
    return echoed - started, time.perf_counter() - echoed


def test_silent_connections_give_way_to_new_ones(raw, start_receiver):
    receiver = start_receiver(max_connections=10, max_associations=5)
    held = raw(receiver.port).associate()
    silent = [raw(receiver.port) for _ in range(30)]
    assert raw(receiver.port).associate().echo() == 0
    assert held.echo() == 0
    assert _connection_ended(silent[0].sock)


def test_when_only_associations_are_open_the_next_connection_is_closed(raw, start_receiver):
    receiver = start_receiver(max_connections=2, max_associations=2)
    held = [raw(receiver.port).associate() for _ in range(2)]
    assert _connection_ended(raw(receiver.port).sock)
    assert [client.echo() for client in held] == [0, 0]


def test_bare_connects_cost_nothing_lasting(receiver, eventually):
    before = threading.active_count()
    for _ in range(300):
        socket.create_connection(("127.0.0.1", receiver.port)).close()
    eventually(lambda: receiver.receiver.counters["connections"] == 300)
    eventually(lambda: not receiver.receiver._open and threading.active_count() <= before)
    assert receiver.receiver.counters["aborted"] == 0


def test_a_drain_lets_running_associations_finish(raw, start_receiver, stored):
    """New ones are refused, the running message is finished and answered."""
    receiver = start_receiver(drain_idle_s=0.5)
    silent = raw(receiver.port)  # accepted before the next one, which is answered
    client = raw(receiver.port).associate()
    data = data_set(UID, pixels=b"x" * 100_000)
    client.sock.sendall(client.pdv(3, 3, client.store_rq(UID)) + client.pdv(3, 0, data[:50_000]))
    receiver.stop.set()
    deadline = time.monotonic() + 5
    while True:
        try:
            socket.create_connection(("127.0.0.1", receiver.port)).close()
        except ConnectionRefusedError:
            break
        except ConnectionResetError:  # still in the queue when the socket was closed
            pass
        assert time.monotonic() < deadline
    assert _rejection(silent) == (2, 3, 1)
    client.sock.sendall(client.pdv(3, 2, data[50_000:]))
    assert client.answer()[0] == 0
    client.release()
    receiver.halt()
    assert stored(UID) == data


def test_a_drain_ends_idle_associations_and_at_last_all(raw, start_receiver):
    receiver = start_receiver(drain_idle_s=0.1, drain_timeout_s=0.5)
    idle, stuck = raw(receiver.port).associate(), raw(receiver.port).associate()
    stuck.sock.sendall(stuck.pdv(3, 3, stuck.store_rq(UID)))
    started = time.monotonic()
    receiver.halt()
    assert time.monotonic() - started < 3
    assert _connection_ended(idle.sock)
    assert _connection_ended(stuck.sock)


def test_a_client_with_nagles_algorithm_is_acknowledged_at_once(receiver):
    """A stock modality loses 40 ms a file where acknowledgements are delayed."""
    client = Raw(receiver.port)
    client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    client.associate()
    times = []
    for n in range(20):
        uid = f"1.2.3.5.{n}"
        data = data_set(uid, pixels=b"x" * 100_001)
        started = time.perf_counter()
        client.sock.sendall(client.pdv(3, 3, client.store_rq(uid)))
        for at in range(0, len(data), 16378):  # header and body apart, as DCMTK writes them
            part = data[at : at + 16378]
            last = 2 if at + 16378 >= len(data) else 0
            client.sock.sendall(struct.pack(">BxIIBB", 4, len(part) + 6, len(part) + 2, 3, last))
            client.sock.sendall(part)
        assert client.answer()[0] == 0
        times.append(time.perf_counter() - started)
    client.release()
    assert sorted(times)[10] < 0.035, times


def test_processes_share_one_port_evenly(raw, start_receiver, ingest):
    """Each has its own copy of the listening socket and closes it when it drains; the other one goes on."""
    first = start_receiver()
    second = Receiver(ingest, ReceiverPolicy(), first.receiver._listen.dup())
    stop = threading.Event()
    thread = threading.Thread(target=second.run, args=(stop,))
    thread.start()
    clients = [raw(first.port) for _ in range(8)]
    for client in clients:
        client.associate([(CT, [EXPLICIT])])
    assert second.counters["connections"] in {3, 4, 5}
    for client in clients:
        client.release()
    first.halt()
    before = second.counters["associations"]
    for _ in range(5):
        raw(first.port).associate([(CT, [EXPLICIT])]).release()
    stop.set()
    thread.join(10)
    assert second.counters["associations"] == before + 5
