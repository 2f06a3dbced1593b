"""A receiver on a free port in this process, and a raw client that may misbehave."""

from __future__ import annotations

import datetime as dt
import hashlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from dcmtk import find
from district import District, district_on
from raw_dicom import Raw

from pacs.dimse.policy import ReceiverPolicy
from pacs.dimse.server import Receiver
from pacs.ingest import Arrival, Ingest
from storage import forwarding
from storage.database import Database


@dataclass
class Running:
    """A receiver that runs in a thread of this process."""

    receiver: Receiver
    ingest: Ingest
    stop: threading.Event
    thread: threading.Thread
    port: int = field(init=False)

    def __post_init__(self) -> None:
        self.port = self.receiver.address[1]

    def halt(self) -> None:
        self.stop.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture
def district(
    postgres: str, migrated_template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[District]:
    """A second archive that forwards, and tries again soon."""
    monkeypatch.setattr(forwarding.line_failed, "__defaults__", ((0.2, 0.5),))  # seconds of back-off
    with district_on(postgres, migrated_template, tmp_path / "district") as made:
        yield made


@pytest.fixture
def ingest(database: Database, store: Any) -> Iterator[Ingest]:
    """The real way in, over an empty database and an empty folder."""
    made = Ingest(
        database,
        store,
        screen=lambda header: "" if header.modality == "DX" else "not a radiograph",
        arrival=lambda _header, at, _site: Arrival("routine", at + dt.timedelta(hours=4)),
    )
    yield made
    made.close()


@pytest.fixture
def stored(database: Database, store: Any) -> Callable[[str], bytes | None]:
    """The data set that is served under a SOP Instance UID, checked against its digest; None when there is none."""

    def read(sop_uid: str) -> bytes | None:
        with database.transaction() as connection:
            row = connection.execute(
                "SELECT object_key, dataset_offset, sha256 FROM instances WHERE sop_uid = %s", (sop_uid,)
            ).fetchone()
        if row is None:
            return None
        body = store.read(row[0])[row[1] :]
        assert hashlib.sha256(body).digest() == row[2]
        return body

    return read


@pytest.fixture
def kept_aside(database: Database, store: Any) -> Callable[[], list[tuple[str, str, bytes]]]:
    """Kind, SOP Instance UID and data set of everything that was set aside."""

    def read() -> list[tuple[str, str, bytes]]:
        with database.transaction() as connection:
            rows = connection.execute(
                "SELECT kind, sop_uid, object_key, dataset_offset FROM set_aside ORDER BY set_aside_pk"
            ).fetchall()
        return [(kind, uid, store.read(key)[offset:]) for kind, uid, key, offset in rows]

    return read


@pytest.fixture
def dcmtk() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a DCMTK client; skips where it is not installed."""

    def run(tool: str, *args: object) -> subprocess.CompletedProcess[str]:
        found = find(tool)
        if found is None:
            pytest.skip(f"needs DCMTK's {tool}")
        return subprocess.run([found, *map(str, args)], capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.fixture
def start_receiver(ingest: Ingest) -> Iterator[Callable[..., Running]]:
    """Start a receiver with this policy; all of them share one ingest and stop with the test."""
    started: list[Running] = []

    def start(**policy: Any) -> Running:
        listen = socket.create_server(("127.0.0.1", 0), backlog=512)
        receiver = Receiver(ingest, ReceiverPolicy(**{"artim_timeout_s": 3.0, **policy}), listen)
        stop = threading.Event()
        thread = threading.Thread(target=receiver.run, args=(stop,), name="receiver")
        started.append(Running(receiver, ingest, stop, thread))
        thread.start()
        return started[-1]

    yield start
    for running in started:
        running.halt()


@pytest.fixture
def receiver(start_receiver: Callable[..., Running]) -> Running:
    """A receiver with the default policy."""
    return start_receiver()


@pytest.fixture
def raw(receiver: Running) -> Iterator[Callable[..., Raw]]:
    """Make raw connections to the receiver; all are closed with the test."""
    made: list[Raw] = []

    def connect(port: int | None = None) -> Raw:
        made.append(Raw(port or receiver.port))
        return made[-1]

    yield connect
    for client in made:
        client.close()


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Poll until a condition holds."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60  # of a machine that does much else
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true"
            time.sleep(0.005)

    return wait
