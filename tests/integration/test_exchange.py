"""The exchange process: tasks are woken by the database, fail alone, and stop together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pacs import exchange as process
from pacs.tasks import Exchange, Task
from storage.database import Database
from storage.errors import DatabaseUnavailable

CHANNEL = "sangloc_test"


@pytest.fixture
def running(database: Database, store: Any) -> Iterator[Callable[..., Exchange]]:
    """Runs tasks in this process; all must stop in time."""
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def start(*tasks: tuple[str, Task]) -> Exchange:
        parts = Exchange(database, store)
        threads.append(threading.Thread(target=process.run, args=(parts, stop, tasks)))
        threads[-1].start()
        return parts

    yield start
    stop.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def counting(rung: threading.Semaphore) -> Task:
    def task(exchange: Exchange, stop: threading.Event) -> None:
        bell = exchange.bells.on(CHANNEL)
        while not stop.is_set():
            bell.wait()
            bell.clear()
            rung.release()

    return task


def notify(database: Database) -> None:
    with database.autocommit() as connection:
        connection.execute("SELECT pg_notify(%s, '')", (CHANNEL,))


def hang_up(database: Database) -> bool:
    """End the connection that listens; False while there is none."""
    with database.autocommit() as connection:
        found = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE query LIKE 'LISTEN%' AND datname = current_database()"
        ).fetchall()
    return found == [(True,)]


def test_a_task_is_woken_by_a_notification_and_by_the_stop(
    running: Callable[..., Exchange], database: Database
) -> None:
    rung = threading.Semaphore(0)
    running(("one", counting(rung)), ("two", counting(rung)))
    assert rung.acquire(timeout=10)  # once at the start, because something may have been said before
    for _ in range(3):
        notify(database)
        assert rung.acquire(timeout=10)


def test_bells_ring_again_after_the_database_hung_up(running: Callable[..., Exchange], database: Database) -> None:
    rung = threading.Semaphore(0)
    running(("one", counting(rung)))
    assert rung.acquire(timeout=10)
    deadline = time.monotonic() + 10
    while not hang_up(database):  # it may not listen yet
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert rung.acquire(timeout=10)  # a new connection rings, whatever was missed
    notify(database)
    assert rung.acquire(timeout=10)


@pytest.mark.parametrize("error", [RuntimeError("broken"), DatabaseUnavailable("away")], ids=["fault", "away"])
def test_a_task_that_fails_is_started_again_and_takes_nobody_with_it(
    running: Callable[..., Exchange], database: Database, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_PAUSE_S", (0.01, 0.02))
    rung, tries = threading.Semaphore(0), threading.Semaphore(0)

    def failing(exchange: Exchange, stop: threading.Event) -> None:
        tries.release()
        raise error

    running(("failing", failing), ("one", counting(rung)))
    for _ in range(3):
        assert tries.acquire(timeout=10)
    assert rung.acquire(timeout=10)
    notify(database)
    assert rung.acquire(timeout=10)
