"""Server-sent events: a change is told, storms are folded, streams end when they must."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from archive import Archive
from http_server import client, problem, serving

from api.config import ApiConfig
from storage import worklist

QUICK = ApiConfig(keep_alive_s=0.2, events_per_s=20)


def lines_of(stream: httpx.Response) -> Iterator[str]:
    return (line for line in stream.iter_lines() if line)


def until(lines: Iterator[str], wanted: str) -> int:
    """How many lines came before the wanted one."""
    return next(number for number, line in enumerate(lines) if line == wanted)


def settle(lines: Iterator[str]) -> None:
    """The first change is told at once, and another one when LISTEN stands, if that is later; then it is quiet."""
    until(lines, "event: changed")
    while until(lines, ": still here"):
        pass


def announce(archive: Archive) -> None:
    with archive.database.autocommit() as connection:
        worklist.announce(connection)


def test_a_change_is_told(archive: Archive) -> None:
    uid = archive.add().header.study_uid
    with (
        serving(archive.database, archive.store, QUICK) as address,
        client(address) as http,
        http.stream("GET", "/api/worklist/events") as stream,
    ):
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-store"
        lines = lines_of(stream)
        settle(lines)
        with client(address) as other:
            assert other.put(f"/api/worklist/{uid}/state", json={"state": "read"}).status_code == 200
        until(lines, "event: changed")


def test_the_mode_is_watched(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.events._MODE_EVERY_S", 0.1)
    with (
        serving(archive.database, archive.store, QUICK) as address,
        client(address) as http,
        http.stream("GET", "/api/worklist/events") as stream,
    ):
        lines = lines_of(stream)
        settle(lines)
        archive.worker()  # tells nobody
        until(lines, "event: changed")


def test_a_storm_of_changes_is_a_few_events(archive: Archive) -> None:
    with (
        serving(archive.database, archive.store, ApiConfig(keep_alive_s=0.5, events_per_s=4)) as address,
        client(address) as http,
        http.stream("GET", "/api/worklist/events") as stream,
    ):
        lines = lines_of(stream)
        settle(lines)
        began = time.monotonic()
        for _ in range(400):
            announce(archive)
        took = time.monotonic() - began
        told = 0
        for line in lines:
            told += line == "event: changed"
            if line == ": still here":
                break
        assert 1 <= told <= 4 * took + 3


def test_streams_are_bounded(archive: Archive) -> None:
    with serving(archive.database, archive.store, ApiConfig(max_event_clients=1)) as address, client(address) as http:
        with http.stream("GET", "/api/worklist/events") as stream:
            lines = lines_of(stream)  # kept: httpx closes a stream whose iterator is dropped
            next(lines)
            answer = http.get("/api/worklist/events")
            problem(answer, 503)
            assert int(answer.headers["retry-after"]) > 0
        deadline = time.monotonic() + 10
        while True:  # the place is free again once the server has seen that the client is gone
            with http.stream("GET", "/api/worklist/events") as stream:
                if stream.status_code == 200:
                    break
            assert time.monotonic() < deadline


def test_all_streams_share_one_thread_and_its_connection(archive: Archive) -> None:
    with (
        serving(archive.database, archive.store, QUICK) as address,
        client(address) as http,
        http.stream("GET", "/api/worklist/events") as one,
        http.stream("GET", "/api/worklist/events") as two,
    ):
        both = [lines_of(stream) for stream in (one, two)]
        for lines in both:
            until(lines, "event: changed")
        assert "sangloc_event_streams 2.0" in http.get("/metrics").text
        assert [thread.name for thread in threading.enumerate()].count("worklist-events") == 1


def test_the_stream_lives_through_a_database_restart(archive: Archive, conninfo: str) -> None:
    with (
        serving(archive.database, archive.store, QUICK) as address,
        client(address) as http,
        http.stream("GET", "/api/worklist/events") as stream,
    ):
        lines = lines_of(stream)
        settle(lines)
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        until(lines, "event: changed")  # it listens again, and tells in case something was missed
        announce(archive)
        until(lines, "event: changed")


def test_stopping_ends_streams_at_once(archive: Archive) -> None:
    ended = threading.Event()

    def watch(address: str, told: threading.Event) -> None:
        with client(address) as http, http.stream("GET", "/api/worklist/events") as stream:
            for _ in stream.iter_lines():
                told.set()
        ended.set()

    with serving(archive.database, archive.store) as address:
        told = threading.Event()
        watcher = threading.Thread(target=watch, args=(address, told))
        watcher.start()
        assert told.wait(10)
        began = time.monotonic()
    watcher.join(10)
    assert ended.is_set()
    assert time.monotonic() - began < 3


def test_sigterm_ends_the_process_with_0_while_a_page_listens(conninfo: str, tmp_path: Path) -> None:
    script = (
        "from api import server; from api.config import ApiConfig; from storage.database import Database\n"
        "from storage.objects.directory import DirectoryStore; from pathlib import Path; import sys\n"
        "server.run(Database(sys.argv[1]), DirectoryStore(Path(sys.argv[2])), ApiConfig(), port=0,"
        " on_ready=lambda port: print('port', port, flush=True))"
    )
    command = [sys.executable, "-c", script, conninfo, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = next(line.split()[1] for line in process.stdout if line.startswith("port "))
        with client(f"http://127.0.0.1:{port}") as http, http.stream("GET", "/api/worklist/events") as stream:
            lines = lines_of(stream)
            until(lines, "event: changed")
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
