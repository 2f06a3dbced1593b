"""Tells workers and pages that something came in: seldom enough to cost nothing, soon enough to be seen at once."""

from __future__ import annotations

import threading

import structlog

from storage import jobs
from storage.database import Database
from storage.errors import DatabaseUnavailable

__all__ = ["Announcer"]

log = structlog.get_logger()

_PAUSE_S = 0.05  # between two announcements


class Announcer:
    """Sends the notifications of many commits together, outside of their transactions.

    Inside they would make the server commit one after the other. A notification that is lost with the database does no
    harm: whoever listens also looks by itself from time to time.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._jobs = self._pending = False
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
        self._thread.start()

    def announce(self, *, asked: bool) -> None:
        """The worklist has changed; with `asked` there are jobs for a worker as well."""
        if asked:
            self._jobs = True
        if not self._pending:
            self._pending = True
            self._wake.set()

    def close(self) -> None:
        """Send what is left and stop."""
        self._closing.set()
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._pending:
                self._pending = False
                try:
                    self._send()
                except DatabaseUnavailable as error:
                    log.warning("cannot announce", error=str(error))
            if self._closing.is_set():
                return
            self._closing.wait(_PAUSE_S)

    def _send(self) -> None:
        if asked := self._jobs:  # cleared before the notification, so that one set meanwhile is not lost
            self._jobs = False
        with self._database.autocommit() as connection:
            connection.execute("SELECT pg_notify('sangloc_worklist', '')")
            if asked:
                jobs.notify(connection)
