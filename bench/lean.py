"""Query clients that cost next to nothing: prepared bytes go out, answers are counted and not decoded.

A client is a process with one kept connection. All of a load begin together behind a barrier and ask for some seconds.
"""

from __future__ import annotations

import http.client
import json
import math
import multiprocessing
import re
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

import dicom_client

IMPLICIT = dicom_client.IMPLICIT
FIND_STUDY = "1.2.840.10008.5.1.4.1.2.2.1"  # Study Root Query/Retrieve Information Model - FIND (PS3.4 C.6.2.1.3)
_PENDING = (0xFF00, 0xFF01)
_STATUS = b"\0\0\0\x09\x02\0\0\0"  # (0000,0900), two bytes
_FORK = multiprocessing.get_context("fork")
_PATIENCE_S = 120

Ask = Callable[[Any], int]  # a prepared query; gives the number of answers


@dataclass
class Answered:
    """What clients measured: seconds of each query, and how many answers came in all."""

    times: list[float] = field(default_factory=list)
    answers: int = 0

    def add(self, other: Answered) -> None:
        """Take in what another measured."""
        self.times += other.times
        self.answers += other.answers

    def ms(self, percent: float) -> float:
        """Nearest-rank percentile of the times."""
        return 1000 * sorted(self.times)[max(0, math.ceil(percent / 100 * len(self.times)) - 1)]

    def detail(self) -> dict[str, float]:
        """For the results file."""
        count = len(self.times)
        return {
            "p50_ms": self.ms(50), "p95_ms": self.ms(95), "max_ms": self.ms(100), "queries": count,
            "answers_each": self.answers / count,
        }  # fmt: skip


def find_client(port: int, aet: str, sop_class: str = FIND_STUDY) -> Ask:
    """C-FIND on one association; a query is a `request`. Raises RuntimeError for a final status but success."""
    client = dicom_client.Client(port, aet, calling="BENCH", contexts=((sop_class, IMPLICIT),))
    connection, buffer = client.socket, bytearray()

    def ask(message: bytes) -> int:
        connection.sendall(message)
        count = 0
        while True:
            while len(buffer) < 6 or len(buffer) < 6 + int.from_bytes(buffer[2:6], "big"):
                part = connection.recv(1 << 18)
                if not part:
                    raise RuntimeError("the connection was closed")
                buffer.extend(part)
            length = 6 + int.from_bytes(buffer[2:6], "big")
            body = bytes(buffer[6:length])
            if buffer[0] != 4:
                raise RuntimeError(f"PDU type {buffer[0]}")
            del buffer[:length]
            at = 0
            while at < len(body):
                end = at + 4 + int.from_bytes(body[at : at + 4], "big")
                if body[at + 5] & 1:  # of the command
                    place = body.index(_STATUS, at, end) + 8
                    status = int.from_bytes(body[place : place + 2], "little")
                    if status not in _PENDING:
                        if status:
                            raise RuntimeError(f"C-FIND status {status:04X}")
                        return count
                    count += 1
                at = end

    return ask


def find_message(keys: dict[int, str], returned: Sequence[int]) -> bytes:
    """C-FIND-RQ at study level with its identifier."""
    identifier = {0x00080005: "ISO_IR 192", 0x00080052: "STUDY", **dict.fromkeys(returned, ""), **keys}
    return request(FIND_STUDY, b"".join(_element(tag, value) for tag, value in sorted(identifier.items())))


def request(sop_class: str, data: bytes) -> bytes:
    """C-FIND-RQ with this identifier (PS3.7 9.3.2.1), implicit VR little endian, as two PDUs."""
    fields = {0x0002: _uid(sop_class), 0x0100: b"\x20\0", 0x0110: b"\1\0", 0x0700: b"\0\0", 0x0800: b"\0\0"}
    body = b"".join(struct.pack("<HHI", 0, tag, len(value)) + value for tag, value in fields.items())
    command = struct.pack("<HHII", 0, 0, 4, len(body)) + body
    return _pdu(command, 3) + _pdu(data, 2)


def _element(tag: int, value: str) -> bytes:
    raw = value.encode()
    raw += b" " * (len(raw) % 2)
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(raw)) + raw


def _uid(value: str) -> bytes:
    return value.encode() + b"\0" * (len(value) % 2)


def _pdu(data: bytes, flags: int) -> bytes:
    return struct.pack(">BxIIBB", 4, len(data) + 6, len(data) + 2, 1, flags) + data


def http_client(port: int) -> Ask:
    """QIDO-RS on one kept connection; a query is a path. Answers are counted by the Study Instance UIDs in the body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
    headers = {"Accept": "application/dicom+json"}

    def ask(path: bytes) -> int:
        connection.request("GET", path.decode("ascii"), headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status not in (200, 204):
            raise RuntimeError(f"{answer.status} for {path.decode()}: {body[:300]!r}")
        return len(re.findall(rb'"0020000D"', body))

    return ask


def measure(connect: Callable[[], Ask], queries: Sequence[Sequence[Any]], seconds: float) -> Answered:
    """One client for each list of queries, all at once; each list is asked from its beginning for at most `seconds`.

    The first query of a list only warms up.
    """
    barrier = _FORK.Barrier(len(queries))
    clients = []
    for items in queries:
        here, there = _FORK.Pipe(duplex=False)
        process = _FORK.Process(target=_client, args=(connect, items, seconds, barrier, there))
        process.start()
        there.close()
        clients.append((process, here))
    found = Answered()
    problems = []
    for process, here in clients:
        times, answers, problem = _received(here, seconds)
        problems += [problem] * bool(problem)
        found.add(Answered(times, answers))
        process.join()
    if problems:
        raise RuntimeError("; ".join(problems[:3]))
    return found


def _received(pipe: Connection, seconds: float) -> tuple[list[float], int, str]:
    if not pipe.poll(seconds + _PATIENCE_S):
        return [], 0, "a client did not come back"
    try:
        times, answers, problem = json.loads(pipe.recv_bytes())
    except EOFError:
        return [], 0, "a client died"
    return times, answers, problem


def _client(
    connect: Callable[[], Ask], items: Sequence[Any], seconds: float, barrier: Barrier, pipe: Connection
) -> None:
    times: list[float] = []
    answers, problem = 0, ""
    try:
        ask = connect()
        ask(items[0])
        barrier.wait(_PATIENCE_S)
        end = time.perf_counter() + seconds
        for item in items[1:]:
            start = time.perf_counter()
            answers += ask(item)
            now = time.perf_counter()
            times.append(now - start)
            if now > end:
                break
    except Exception as error:
        barrier.abort()
        problem = f"{type(error).__name__}: {error}"
    pipe.send_bytes(_packed([times, answers, problem]))


def _packed(value: Any) -> bytes:
    return json.dumps(value).encode()
