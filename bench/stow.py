"""STOW-RS: MB/s that four HTTP clients get acknowledged, ours and Orthanc's by turns, each with an empty archive.

The clients send files from the page cache with sendfile(2), so that they cost next to nothing beside the servers.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from bench.data import PROFILES, prepare
from bench.systems import DICOMWEB, ORTHANC_WEB, TUNED, UNSAFE, Running, orthanc, sangloc
from bench.table import Row

CLIENTS = 4
BOUNDARY = b"bench-0123456789abcdef"
System = Callable[[Path], AbstractContextManager[Running]]
CASES = (("ct", 1), ("ct", 50), ("cxr-raw", 1))  # profile, files in a request


def run(work: Path, *, quick: bool, peers: bool, repeats: int) -> list[Row]:
    """Megabytes per second of each case against the best Orthanc."""
    systems: dict[str, System] = {"sangloc": lambda folder: sangloc(folder, "--no-worker")}
    if peers and shutil.which("Orthanc") and DICOMWEB[0].exists():
        web = partial(orthanc, nodelay=True, plugins=DICOMWEB)
        systems |= {"Orthanc": web, "Orthanc tuned": partial(web, **TUNED)}
        systems["Orthanc tuned, no fsync"] = partial(web, **TUNED, **UNSAFE)
    rows = []
    for profile, together in CASES:
        files = prepare(PROFILES[profile], work / "data")
        files = files[: len(files) // 2] if quick else files
        runs: dict[str, list[float]] = {}
        for _ in range(repeats):
            for label, system in systems.items():
                with system(work / "state") as running:
                    runs.setdefault(label, []).append(_push(running, files, together))
        for label, found in runs.items():
            print(f"  {profile:8} {together:2} a request  {label:26} {'  '.join(f'{x:6.1f}' for x in found)} MB/s")
        medians = {label: statistics.median(found) for label, found in runs.items()}
        best = max((rate for label, rate in medians.items() if label != "sangloc"), default=None)
        case = f"{profile}, {together} a request, {CLIENTS} clients"
        against = "Orthanc, best" if best else ""
        rows.append(Row("stow", case, medians["sangloc"], "MB/s", against, best, 1.0 if best else None, detail=medians))
    return rows


def _push(running: Running, files: list[Path], together: int) -> float:
    """Send the files, so many in a request, over one connection a client; MB (10^6 bytes) of files a second."""
    for file in files:
        file.read_bytes()  # into the page cache
    requests = [files[at : at + together] for at in range(0, len(files), together)]
    os.sync()
    start = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        for done in [pool.submit(_client, running.http, requests[n::CLIENTS]) for n in range(CLIENTS)]:
            done.result()
    return sum(file.stat().st_size for file in files) / 1e6 / (time.monotonic() - start)


def _client(port: int, requests: list[list[Path]]) -> None:
    with socket.create_connection(("127.0.0.1", port), 120) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for files in requests:
            _send(connection, files)
            head, body = _answer(connection)
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"{head[:200]!r} {body[:500]!r}")


def _send(connection: socket.socket, files: list[Path]) -> None:
    part = b"\r\n--" + BOUNDARY + b"\r\nContent-Type: application/dicom\r\n\r\n"
    end = b"\r\n--" + BOUNDARY + b"--\r\n"
    size = sum(len(part) + file.stat().st_size for file in files) + len(end)
    connection.sendall(
        b"POST %s/studies HTTP/1.1\r\nHost: localhost\r\nAccept: application/dicom+json\r\nContent-Length: %d\r\n"
        b'Content-Type: multipart/related; type="application/dicom"; boundary=%s\r\n\r\n'
        % (ORTHANC_WEB.encode(), size, BOUNDARY)
    )
    for file in files:
        connection.sendall(part)
        with file.open("rb") as opened:
            connection.sendfile(opened)
    connection.sendall(end)


def _answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of an answer with Content-Length."""
    found = b""
    for piece in _received(connection):
        found += piece
        head, gap, body = found.partition(b"\r\n\r\n")
        if gap and len(body) >= _length(head):
            return head, body
    raise RuntimeError(f"the server hung up: {found[:300]!r}")


def _received(connection: socket.socket) -> Iterator[bytes]:
    while piece := connection.recv(1 << 16):
        yield piece


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0
