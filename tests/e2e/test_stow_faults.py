"""STOW-RS bodies that lie, stop or crawl, on a whole system: a clear answer, nothing half stored, flat memory."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import System, check_archive
from stow import BOUNDARY, RELATED, body, closing, part, part10

SMALL = {"SANGLOC_DICOM_MAX_OBJECT_BYTES": str(64 << 20)}
LIMITS = {**SMALL, "SANGLOC_HTTP_BODY_TIMEOUT_S": "1.5", "SANGLOC_HTTP_BODY_MIN_BYTES_PER_S": "1000"}


@pytest.fixture
def running(system: Callable[..., System]) -> System:
    return system("--no-worker", environment=LIMITS)


@contextlib.contextmanager
def posting(system: System, length: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", system.facts()["http"]), 30) as raw:
        raw.sendall(
            f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {RELATED}\r\n"
            f"Content-Length: {length}\r\n\r\n".encode()
        )
        yield raw


def status(raw: socket.socket) -> int:
    answer = raw.recv(4096)
    return int(answer.split(b" ", 2)[1])


def stored(system: System) -> int:
    return int(system.query("SELECT count(*) FROM instances")[0][0])


def objects(system: System) -> int:
    return sum(1 for path in (system.data / "objects").rglob("*.dcm") if path.is_file())


def test_lengths_that_lie(running: System) -> None:
    content = body(part10(1, pixels=bytes(200_000)))
    with posting(running, len(content) + 1000) as raw:  # says more than it sends, and waits
        raw.sendall(content[:150_000])
        assert status(raw) == 408
    with posting(running, len(content) + 1000) as raw:  # says more than it sends, and hangs up
        raw.sendall(content[:150_000])
    with posting(running, len(content) - 1000) as raw:  # says less than it sends: the closing boundary is cut off
        raw.sendall(content)
        assert status(raw) == 400
    assert stored(running) == 0
    with posting(running, len(content)) as raw:
        raw.sendall(content)
        assert status(raw) == 200
    assert (stored(running), objects(running)) == (1, 1)
    check_archive(running, {})


def test_clients_that_crawl_are_cut_off_and_keep_nobody_waiting(running: System) -> None:
    stop = threading.Event()
    crawling: list[int] = []

    def crawl() -> None:
        content = body(part10(7, pixels=bytes(100_000)))
        with contextlib.suppress(OSError), posting(running, len(content)) as raw:
            raw.settimeout(0.1)
            for byte in content:
                with contextlib.suppress(TimeoutError):
                    crawling.append(status(raw))
                    return
                if stop.is_set():
                    return
                raw.sendall(bytes([byte]))

    slow = [threading.Thread(target=crawl) for _ in range(70)]  # more than there are places
    for thread in slow:
        thread.start()
    deadline = time.monotonic() + 20
    answered = 0
    while answered != 200 and time.monotonic() < deadline:  # while the places are taken: come again
        content = body(part10(1))
        with posting(running, len(content)) as raw:
            raw.sendall(content)
            answered = status(raw)
            assert answered in (200, 503)
    assert answered == 200
    for thread in slow:
        thread.join(20)
    stop.set()
    assert set(crawling) <= {408, 503}
    assert len(crawling) == len(slow)
    assert stored(running) == 1


def memory_mb(system: System) -> float:
    """What the API process holds, without what it shares with files (MB)."""
    (pid,) = system.pids()["api"]
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("RssAnon")).split()[1]) / 1024


def test_memory_stays_flat(system: Callable[..., System]) -> None:
    """One part of 3 GB, which is refused, and eight clients with 50 MB each, who may be as slow as the machine."""
    running = system("--no-worker", environment=SMALL)
    with posting(running, 200) as raw:
        raw.sendall(body(part10(1))[:200])
        assert status(raw) == 400
    before = memory_mb(running)
    head = part(part10(1, pixels=b"\r" * (1 << 20))[: 1 << 20])
    piece, count = os.urandom(1 << 20), 3 << 10
    with posting(running, len(head) + count * len(piece) + len(closing())) as raw:
        raw.sendall(head)
        highest = 0.0
        for number in range(count):
            raw.sendall(piece)
            if number % 256 == 0:
                highest = max(highest, memory_mb(running))
        raw.sendall(closing())
        assert status(raw) == 413
    assert objects(running) == 0

    def send(n: int) -> None:
        content = body(part10(n, pixels=bytes([n]) * (50 << 20)))
        with posting(running, len(content)) as one:
            one.sendall(content)
            answers.append(status(one))

    answers: list[int] = []
    clients = [threading.Thread(target=send, args=(n,)) for n in range(2, 10)]
    for thread in clients:
        thread.start()
    while any(thread.is_alive() for thread in clients):
        highest = max(highest, memory_mb(running))
        time.sleep(0.02)
    assert answers == [200] * 8
    assert highest < before + 60, (before, highest)
    assert BOUNDARY in RELATED
    check_archive(running, {})
