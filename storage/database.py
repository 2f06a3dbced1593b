"""The database as the rest of sangloc sees it: a few connections, transactions, one error when it is away.

The pool connects in the thread that asks, so an operation fails as fast as the server refuses and the first operation
after a restart works again; nothing runs in the background.
"""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Iterator
from typing import Any, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from storage.errors import DatabaseUnavailable

__all__ = ["Connection", "Database"]

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

_CONNECT_TIMEOUT_S = 2  # also the longest wait for a free connection
_OPTIONS = " ".join(
    f"-c {setting}"
    for setting in (
        "statement_timeout=30s",
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
    breaks, and for a statement that the server gave up (timeout, deadlock, no room): trying again later is right.
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
        self._closed = False

    @contextlib.contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """A connection on which each statement is its own transaction, for single statements."""
        connection: Connection | None = None
        if not self._slots.acquire(timeout=_CONNECT_TIMEOUT_S):
            raise DatabaseUnavailable("All database connections are in use.")
        try:
            connection = self._take()
            yield connection
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise DatabaseUnavailable(f"{type(error).__name__}: {error}") from error
        finally:
            if connection is not None:
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


def _has_ended(connection: Connection) -> bool:
    """Whether the server has hung up: an idle connection has nothing to read but the end."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
