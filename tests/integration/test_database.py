"""The database away, back, slow and silent."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.errors import DatabaseUnavailable

SOON_S = 4  # the promise is about two; the machine may be busy


@pytest.fixture
def server(fast_path: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(fast_path / "db")
    server.start()
    yield server
    server.stop()


def refused_within(database: Database, seconds: float) -> None:
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        database.check()
    assert time.monotonic() - began < seconds


def test_a_frozen_server_is_given_up_and_used_again_when_it_thaws(server: EmbeddedPostgres) -> None:
    database = Database(server.start(), statement_timeout_s=0.4)
    with database.autocommit() as connection:
        backend = connection.info.backend_pid
        os.kill(backend, signal.SIGSTOP)  # the kernel still takes what we send
        try:
            began = time.monotonic()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
            assert time.monotonic() - began < SOON_S
        finally:
            os.kill(backend, signal.SIGCONT)
    database.check()
    database.close()


def test_long_work_within_the_limits_of_the_server_is_left_alone(server: EmbeddedPostgres) -> None:
    database = Database(server.start(), statement_timeout_s=0.6)
    with database.transaction() as connection:
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            connection.execute("SELECT pg_sleep(0.05)")
            time.sleep(0.05)  # a watch that counts only time in use would end this
    database.close()


def test_a_transaction_is_committed_on_leaving_and_undone_by_an_error(database: Database) -> None:
    def write(worker: str, error: Exception | None = None) -> None:
        with database.transaction() as connection:
            connection.execute(
                "INSERT INTO workers (worker, model, weights_sha256, engine) VALUES (%s, '', '', '')", (worker,)
            )
            if error:
                raise error

    write("kept")
    with pytest.raises(KeyError):
        write("undone", KeyError())
    with database.autocommit() as connection:
        assert connection.execute("SELECT worker FROM workers").fetchall() == [("kept",)]


def test_connections_are_kept_and_given_out_again(database: Database) -> None:
    pids = set()
    for _ in range(5):
        with database.transaction() as connection:
            pids.add(connection.info.backend_pid)
    assert len(pids) == 1


def test_a_connection_left_in_a_transaction_is_not_given_out_again(database: Database) -> None:
    with database.autocommit() as connection:
        connection.execute("BEGIN")
        left = connection.info.backend_pid
    with database.autocommit() as connection:
        assert connection.info.backend_pid != left


def test_more_threads_than_connections_wait_their_turn(conninfo: str) -> None:
    database = Database(conninfo, max_connections=2)
    together = threading.Barrier(8)

    def work(_: int) -> int:
        together.wait(10)
        with database.transaction() as connection:
            connection.execute("SELECT pg_sleep(0.01)")
            return connection.info.backend_pid

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(work, range(8)))) <= 2
    database.close()


def test_when_all_connections_are_in_use_it_is_said_soon(conninfo: str) -> None:
    database = Database(conninfo, max_connections=1)
    with database.autocommit():
        refused_within(database, SOON_S)
    database.check()
    database.close()


def test_a_server_that_stops_and_comes_back(server: EmbeddedPostgres) -> None:
    database = Database(server.conninfo)
    with database.autocommit(), database.autocommit():  # two idle ones afterwards
        pass
    server.stop()
    refused_within(database, SOON_S)
    refused_within(database, SOON_S)
    server.start()
    database.check()  # at once, and no dead connection is handed out
    with database.autocommit() as one, database.autocommit() as two:
        assert one.execute("SELECT 1").fetchone() == two.execute("SELECT 1").fetchone()
    database.close()


def test_a_server_killed_in_mid_statement(server: EmbeddedPostgres) -> None:
    database = Database(server.conninfo)

    def be_killed() -> None:
        with database.transaction() as connection:
            threading.Timer(0.2, os.kill, (connection.info.backend_pid, signal.SIGKILL)).start()
            connection.execute("SELECT pg_sleep(600)")

    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        be_killed()
    assert time.monotonic() - began < SOON_S + 10
    deadline = time.monotonic() + 30
    while True:  # the server recovers from the crash of a backend
        try:
            database.check()
            break
        except DatabaseUnavailable:
            assert time.monotonic() < deadline
    database.close()


def test_a_silent_server_is_given_up_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        database = Database(f"host=127.0.0.1 port={silent.getsockname()[1]} user=a dbname=b")
        refused_within(database, SOON_S)


@pytest.mark.parametrize("conninfo", ["host=127.0.0.1 port=1", "host=no-such-host.invalid", "host=/nonexistent"])
def test_no_server_is_said_soon(conninfo: str) -> None:
    refused_within(Database(conninfo), SOON_S)


def test_a_wrong_password_or_database_is_unavailable(postgres: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="nowhere"):
        Database(psycopg.conninfo.make_conninfo(postgres, dbname="nowhere")).check()


def test_a_statement_that_the_server_gives_up_is_unavailable(database: Database) -> None:
    def be_slow() -> None:
        with database.autocommit() as connection:
            connection.execute("SET statement_timeout = '10ms'")
            connection.execute("SELECT pg_sleep(60)")

    with pytest.raises(DatabaseUnavailable, match="statement timeout"):
        be_slow()


def test_a_mistake_of_ours_is_not_called_unavailable(database: Database) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable), database.autocommit() as connection:
        connection.execute("SELECT * FROM nothing")
    database.check()


def test_what_the_url_sets_is_respected(conninfo: str) -> None:
    given = psycopg.conninfo.make_conninfo(conninfo, connect_timeout=7, application_name="x", options="-c work_mem=1MB")
    database = Database(given)
    assert conninfo_to_dict(database.conninfo)["connect_timeout"] == "7"
    with database.autocommit() as connection:
        for name, value in (("application_name", "x"), ("work_mem", "1MB"), ("enable_seqscan", "off")):
            assert connection.execute(f"SHOW {name}").fetchone() == (value,)
    database.close()


def test_a_closed_database_is_unavailable(conninfo: str) -> None:
    database = Database(conninfo)
    with database.autocommit() as connection:
        database.close()
        connection.execute("SELECT 1")
    assert connection.closed
    refused_within(database, SOON_S)
