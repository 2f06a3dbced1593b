"""The database as the rest of sangloc sees it: a few connections, transactions, one error when it is away.

The pool connects in the thread that asks, so an operation fails as fast as the server refuses and the first operation
after a restart works again. All that runs in the background is the watch over servers that have stopped answering.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Iterator
from typing import Any, TypeAlias

import psycopg
import structlog
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from storage.errors import DatabaseUnavailable

__all__ = ["Connection", "Database"]

log = structlog.get_logger()

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

_CONNECT_TIMEOUT_S = 2  # also the longest wait for a free connection
_STATEMENT_TIMEOUT_S = 30
_SILENCE_FACTOR = 1.5  # how much longer than the server lets a statement run we wait for its word
_LOOKS = 9  # of the watch within that time
_OPTIONS = " ".join(
    f"-c {setting}"
    for setting in (
        f"statement_timeout={_STATEMENT_TIMEOUT_S}s",
        "lock_timeout=10s",
        "idle_in_transaction_session_timeout=60s",
        "timezone=UTC",
        "jit=off",  # every statement here is short
        "enable_seqscan=off",  # a plan made while a table was nearly empty must stay good when it is full
    )
)


class Database:
    """Connections to one PostgreSQL. Thread-safe; at most `max_connections` are in use at a time.

    Every method raises `DatabaseUnavailable` within about two seconds while the server is away, for a connection that
    breaks, and for a statement that the server gave up (timeout, deadlock, no room): trying again later is right. From
    a server that is frozen, or whose host is gone without a word, a statement is taken back a little after the time
    that the server gives it (30 s, or `statement_timeout_s`).
    """

    def __init__(
        self,
        conninfo: str,
        *,
        max_connections: int = 8,
        application_name: str = "sangloc",
        statement_timeout_s: float | None = None,
    ) -> None:
        given = conninfo_to_dict(conninfo)
        limit = "" if statement_timeout_s is None else f"-c statement_timeout={round(statement_timeout_s * 1000)}"
        self.conninfo = make_conninfo(
            conninfo,
            connect_timeout=given.get("connect_timeout") or _CONNECT_TIMEOUT_S,
            tcp_user_timeout=given.get("tcp_user_timeout") or _CONNECT_TIMEOUT_S * 1000,
            application_name=given.get("application_name") or application_name,
            options=f"{_OPTIONS} {given.get('options') or ''} {limit}".strip(),  # the last one counts
        )
        self._slots = threading.BoundedSemaphore(max_connections)
        self._idle: list[Connection] = []
        self._watch = _Watch(_SILENCE_FACTOR * (statement_timeout_s or _STATEMENT_TIMEOUT_S))
        self._closed = False

    @contextlib.contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """A connection on which each statement is its own transaction, for single statements."""
        connection: Connection | None = None
        if not self._slots.acquire(timeout=_CONNECT_TIMEOUT_S):
            raise DatabaseUnavailable("All database connections are in use.")
        try:
            connection = self._take()
            self._watch.begin(connection)
            yield connection
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise DatabaseUnavailable(f"{type(error).__name__}: {error}") from error
        finally:
            if connection is not None:
                self._watch.end(connection)
                self._give(connection)
            self._slots.release()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A connection in a transaction: committed on leaving, rolled back when an error leaves."""
        with self.autocommit() as connection, connection.transaction():
            yield connection

    def connect(self) -> Connection:
        """A fresh autocommit connection that the caller owns and closes (for LISTEN)."""
        try:
            return psycopg.connect(self.conninfo, autocommit=True)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise DatabaseUnavailable(f"{type(error).__name__}: {error}") from error

    def check(self) -> None:
        """Raise `DatabaseUnavailable` unless the server answers now."""
        with self.autocommit() as connection:
            connection.execute("SELECT 1")

    def close(self) -> None:
        """Close the idle connections; those in use are closed when they come back."""
        self._closed = True
        self._watch.close()
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> Connection:
        if self._closed:
            raise DatabaseUnavailable("The database was closed.")
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self.connect()
            if not _has_ended(connection):
                return connection
            connection.close()

    def _give(self, connection: Connection) -> None:
        if self._closed or connection.info.transaction_status != TransactionStatus.IDLE:
            connection.close()
        else:
            self._idle.append(connection)


class _Watch:
    """Hangs up on connections that wait in one use for longer than the server lets any statement run.

    libpq waits without limit, and the kernel of a frozen server goes on acknowledging, so no time-out of TCP helps.
    """

    def __init__(self, silence_s: float) -> None:
        self._tick_s = silence_s / _LOOKS
        self._lock = threading.Lock()
        self._used: dict[Connection, int] = {}  # looks in a row that found it waiting
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, connection: Connection) -> None:
        with self._lock:
            self._used[connection] = 0
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="database watch", daemon=True)
                self._thread.start()

    def end(self, connection: Connection) -> None:
        with self._lock:
            self._used.pop(connection, None)

    def close(self) -> None:
        self._closing.set()

    def _run(self) -> None:
        while not self._closing.wait(self._tick_s):
            with self._lock:
                for connection, looks in self._used.items():
                    waits = connection.info.transaction_status == TransactionStatus.ACTIVE
                    self._used[connection] = looks + 1 if waits else 0
                    if waits and looks == _LOOKS:
                        log.warning("the database has stopped answering", backend_pid=connection.info.backend_pid)
                        _hang_up(connection)


def _hang_up(connection: Connection) -> None:
    """End the connection under the thread that waits for it."""
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


def _has_ended(connection: Connection) -> bool:
    """Whether the server has hung up: an idle connection has nothing to read but the end."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
