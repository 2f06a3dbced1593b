"""Being woken by the database: LISTEN on a connection of its own, made again when it breaks."""

from __future__ import annotations

import time
from typing import Self

import psycopg
import structlog

from storage.database import Connection, Database
from storage.errors import DatabaseUnavailable

__all__ = ["Wakeup"]

log = structlog.get_logger()


class Wakeup:
    """Waits for a NOTIFY on a channel. One that came while nobody waited ends the next wait at once."""

    def __init__(self, database: Database, channel: str) -> None:
        self._database = database
        self._channel = channel
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._connection is not None:
            self._connection.close()

    def wait(self, timeout_s: float) -> bool:
        """Whether a notification came within `timeout_s`; without the database it just waits."""
        try:
            if self._connection is None:
                self._connection = self._database.connect()
                self._connection.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(self._channel)))
                return True  # what was notified before nobody heard: look
            return any(True for _ in self._connection.notifies(timeout=timeout_s, stop_after=1))
        except (DatabaseUnavailable, psycopg.OperationalError) as error:
            log.warning("the database cannot wake the worker", error=str(error))
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            time.sleep(timeout_s)
            return False
