"""Objects on their way from file to socket: whole, in order, and nobody waits for a slow client."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from archive import Archive
from http_server import client, serving
from related import parts_of
from running import until

from api.config import ApiConfig

ANY = 'multipart/related; type="application/dicom"; transfer-syntax=*'
SINGLE = "application/dicom; transfer-syntax=*"
LARGE = np.random.default_rng(3).integers(0, 4096, (4000, 3000)).astype(np.uint16)  # 24 MB: more than sockets hold


def path_of(header: Any, level: str = "instance") -> str:
    path = f"/dicom-web/studies/{header.study_uid}"
    if level == "instance":
        path += f"/series/{header.series_uid}/instances/{header.sop_uid}"
    return path


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each sendfile(2) call from now on."""
    calls: list[int] = []
    real = os.sendfile

    def sendfile(*args: Any) -> int:
        calls.append(moved := real(*args))
        return moved

    monkeypatch.setattr(os, "sendfile", sendfile)
    return calls


@contextlib.contextmanager
def raw(http: httpx.Client, path: str, accept: str = SINGLE) -> Iterator[socket.socket]:
    """A connection that has asked and reads nothing yet, with a small buffer."""
    address = urlsplit(str(http.base_url))
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        connection.settimeout(20)
        connection.connect((address.hostname, address.port))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\nAccept: {accept}\r\n\r\n".encode())
        yield connection


def descriptors() -> int:
    """Open files and sockets of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_large_object_goes_by_sendfile(archive: Archive, http: httpx.Client, sent: list[int]) -> None:
    received = archive.add(LARGE)
    answer = http.get(path_of(received.header), headers={"Accept": SINGLE})
    assert answer.content == archive.store.read(received.object_key)
    assert sum(sent) == received.object_size
    sent.clear()
    part = http.get(path_of(received.header), headers={"Accept": SINGLE, "Range": "bytes=5000000-19999999"})
    assert part.content == answer.content[5_000_000:20_000_000]
    assert sum(sent) == 15_000_000
    for _ in range(3):  # the connection stays good
        assert http.get("/health/live").status_code == 200
    assert http.head(path_of(received.header), headers={"Accept": SINGLE}).content == b""


def test_stored_and_made_parts_in_one_answer(archive: Archive, http: httpx.Client, sent: list[int]) -> None:
    plain = archive.add(LARGE)
    corrected = archive.add(LARGE, study_uid=plain.header.study_uid)
    with archive.database.autocommit() as connection:
        connection.execute(
            'UPDATE series SET corrections = \'{"00081030": {"vr": "LO", "Value": ["corrected"]}}\''
            " WHERE series_uid = %s",
            (corrected.header.series_uid,),
        )
    answer = http.get(path_of(plain.header, "study"), headers={"Accept": ANY})
    assert answer.headers["transfer-encoding"] == "chunked"
    (_, first), (_, second) = parts_of(answer)
    assert first == archive.store.read(plain.object_key)
    assert b"corrected" in second
    assert second.endswith(LARGE.tobytes())
    assert sum(sent) == plain.object_size + len(second)  # what is made waits in a file


def test_two_requests_at_once_are_answered_in_order(archive: Archive, http: httpx.Client) -> None:
    one, two = archive.add(LARGE), archive.add()
    with raw(http, path_of(one.header)) as connection:
        host = urlsplit(str(http.base_url)).netloc
        request = f"GET {path_of(two.header)} HTTP/1.1\r\nHost: {host}\r\nAccept: {SINGLE}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        data = b""
        while part := connection.recv(1 << 20):
            data += part
    head, _, rest = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert rest[: one.object_size] == archive.store.read(one.object_key)
    assert rest[one.object_size :].startswith(b"HTTP/1.1 200")
    assert rest.endswith(archive.store.read(two.object_key))


def test_nobody_waits_for_clients_that_read_nothing(archive: Archive, http: httpx.Client) -> None:
    large, small = archive.add(LARGE), archive.add()
    with contextlib.ExitStack() as stack:
        stalled = [stack.enter_context(raw(http, path_of(large.header))) for _ in range(40)]
        for connection in stalled:
            assert connection.recv(12) == b"HTTP/1.1 200"
        before = threading.active_count()
        for _ in range(20):
            start = time.monotonic()
            assert http.get(path_of(small.header), headers={"Accept": SINGLE}).status_code == 200
            assert time.monotonic() - start < 2
        assert threading.active_count() <= before + 2
        digest, left = hashlib.sha256(), large.object_size
        head = b""
        while b"\r\n\r\n" not in head:
            head += stalled[7].recv(1 << 16)
        first = head.split(b"\r\n\r\n", 1)[1]
        digest.update(first)
        left -= len(first)
        while left and (part := stalled[7].recv(1 << 20)):
            digest.update(part)
            left -= len(part)
        assert digest.digest() == hashlib.sha256(archive.store.read(large.object_key)).digest()


def test_a_client_that_takes_nothing_is_cut_off(archive: Archive) -> None:
    large = archive.add(LARGE)
    with serving(archive.database, archive.store, ApiConfig(send_timeout_s=0.5)) as address, client(address) as http:
        with raw(http, path_of(large.header)) as connection:
            assert connection.recv(12) == b"HTTP/1.1 200"
            open_files = descriptors()
            until(lambda: descriptors() < open_files, 10, "the connection is closed")
            data = 0
            with contextlib.suppress(ConnectionResetError):
                while part := connection.recv(1 << 20):
                    data += len(part)
        assert data < large.object_size


def test_clients_that_go_away_leave_nothing_behind(archive: Archive, http: httpx.Client) -> None:
    large = archive.add(LARGE)
    http.get("/health/live")
    before = descriptors()
    for _ in range(10):
        with raw(http, path_of(large.header)) as connection:
            assert connection.recv(12) == b"HTTP/1.1 200"
    until(lambda: descriptors() <= before + 1, 10, "files and sockets are closed")


def test_an_object_that_is_too_short_is_no_success(archive: Archive, http: httpx.Client) -> None:
    large = archive.add(LARGE)
    path = archive.store.path(large.object_key)
    assert path is not None
    with Path(path).open("r+b") as file:
        file.truncate(large.object_size - 1000)
    for level, accept in (("instance", SINGLE), ("study", ANY)):
        with pytest.raises(httpx.RemoteProtocolError):
            http.get(path_of(large.header, level), headers={"Accept": accept})
