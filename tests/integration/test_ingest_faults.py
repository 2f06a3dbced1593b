"""The database goes away at the worst moments: nothing acknowledged is lost, no row is left without its object."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from elements import CT, EXPLICIT, ROOT, data_set

from pacs.ingest import Arrival, Ingest
from pacs.verify import verify
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.errors import DatabaseUnavailable, Unavailable
from storage.migrate import migrate
from storage.objects.directory import DirectoryStore


def _ingest(database: Database, store: DirectoryStore) -> Ingest:
    return Ingest(
        database,
        store,
        screen=lambda _header: "",
        arrival=lambda _header, at, _site: Arrival("routine", at + dt.timedelta(hours=4)),
    )


def _send(ingest: Ingest, n: int | str) -> str:
    said = {"sop_class": CT, "sop_uid": f"{ROOT}.3.{n}", "transfer_syntax": EXPLICIT}
    with ingest.receive(**said, source_aet="CT1", source_address="10.0.0.7") as incoming:
        incoming.write([data_set(n=n)])
        return incoming.commit()


class _Proxy:
    """Stands before PostgreSQL and swallows the answer to a statement with a mark: it is done, nobody hears of it."""

    def __init__(self, folder: Path, server: str, mark: bytes) -> None:
        self._server, self._mark = server, mark
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        self.swallowed = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                marked = threading.Event()
                for source, target in ((client, server), (server, client)):
                    arguments = (source, target, marked, source is server)
                    threading.Thread(target=self._pump, args=arguments, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, marked: threading.Event, answers: bool) -> None:
        with source, suppress(OSError):
            while data := source.recv(1 << 16):
                if answers and marked.is_set():
                    self.swallowed += 1
                    break
                if not answers and self._mark in data and not self.swallowed:
                    marked.set()
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="proxy") as name:
        yield Path(name)


def test_an_answer_to_a_commit_that_never_comes(
    folder: Path, conninfo: str, database: Database, store: DirectoryStore
) -> None:
    """The row may stand: the object must stay, and the resend is harmless."""
    proxy = _Proxy(folder, f"{conninfo_to_dict(conninfo)['host']}/.s.PGSQL.5432", f"{ROOT}.3.2".encode())
    through = Database(make_conninfo(conninfo, host=str(folder)))
    ingest = _ingest(through, store)
    assert _send(ingest, "1") == "stored"
    with pytest.raises(DatabaseUnavailable):
        _send(ingest, "2")
    assert proxy.swallowed == 1
    with database.transaction() as connection:
        assert connection.execute("SELECT count(*) FROM instances").fetchone() == (2,)
    assert verify(database, store, in_flight_s=0).damaged == []
    assert _send(ingest, "2") == "duplicate"
    report = verify(database, store, in_flight_s=0)
    assert (report.checked, report.damaged, report.orphans) == (2, [], [])
    ingest.close()
    through.close()
    proxy.close()


def test_kill_9_of_the_database_under_load_and_its_return(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres")
    database = Database(server.start())
    store = DirectoryStore(tmp_path / "objects")
    migrate(database)
    ingest = _ingest(database, store)
    stop, acknowledged, slowest = threading.Event(), set[str](), [0.0]

    def sender(k: int) -> None:
        n = 0
        while not stop.is_set():
            n += 1
            started = time.monotonic()
            with suppress(Unavailable):
                _send(ingest, f"{k}.{n}")
                acknowledged.add(f"{ROOT}.3.{k}.{n}")
            slowest[0] = max(slowest[0], time.monotonic() - started)

    try:
        with ThreadPoolExecutor(8) as pool:
            running = [pool.submit(sender, k) for k in range(1, 9)]
            try:
                for _ in range(2):
                    before = len(acknowledged)
                    _wait(lambda before=before: len(acknowledged) > before + 40)
                    assert server.pid
                    os.kill(server.pid, signal.SIGKILL)
                    _wait(lambda: not _answers(database))
                    server.stop()
                    server.start()
                before = len(acknowledged)
                _wait(lambda: len(acknowledged) > before + 40)
            finally:
                stop.set()
            for one in running:
                one.result(20)
        ingest.close()
        with database.transaction() as connection:
            rows = dict(connection.execute("SELECT sop_uid, sha256 FROM instances").fetchall())
        assert acknowledged <= rows.keys()
        for uid in acknowledged:
            assert rows[uid] == hashlib.sha256(data_set(n=uid.removeprefix(f"{ROOT}.3."))).digest()
        assert verify(database, store).damaged == []
        assert slowest[0] < 15
    finally:
        database.close()
        server.stop()


def _answers(database: Database) -> bool:
    try:
        database.check()
    except DatabaseUnavailable:
        return False
    return True


def _wait(condition: object, timeout_s: float = 30) -> None:
    assert callable(condition)
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        threading.Event().wait(0.01)
