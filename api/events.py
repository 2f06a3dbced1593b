"""Server-sent events: one LISTEN connection of the process feeds every open page."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import structlog

from api.config import ApiConfig
from storage import worklist
from storage.database import Database
from storage.errors import Unavailable

__all__ = ["CHANGED", "Events"]

CHANGED = b"event: changed\ndata: {}\n\n"
_STILL_HERE = b": still here\n\n"
_RETRY = b"retry: 2000\n\n"
_MODE_EVERY_S = 5.0
_POLL_S = 0.5  # how soon the thread sees that it shall stop
_RECONNECT_S = 1.0

log = structlog.get_logger()


class Events:
    """`changed` for every subscriber when the worklist, or the mode it is in, may have changed.

    All methods but the thread's own run in the event loop.
    """

    def __init__(self, database: Database, config: ApiConfig) -> None:
        self._database = database
        self._config = config
        self._subscribers: set[asyncio.Event] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    @property
    def clients(self) -> int:
        """Open streams."""
        return len(self._subscribers)

    def stream(self) -> AsyncIterator[bytes]:
        """The bytes of one stream, opening with a `changed`; raises `Unavailable` when there are too many already."""
        if self._stop.is_set():
            raise Unavailable("the server is stopping")
        if len(self._subscribers) >= self._config.max_event_clients:
            raise Unavailable(f"{self._config.max_event_clients} event streams are open, the most this server allows")
        self._listen()
        return self._stream()

    async def _stream(self) -> AsyncIterator[bytes]:
        signal = asyncio.Event()
        signal.set()
        self._subscribers.add(signal)
        try:
            yield _RETRY
            while not self._stop.is_set():
                try:
                    async with asyncio.timeout(self._config.keep_alive_s):
                        await signal.wait()
                except TimeoutError:
                    yield _STILL_HERE
                    continue
                signal.clear()
                if not self._stop.is_set():
                    yield CHANGED
        finally:
            self._subscribers.discard(signal)

    def close(self) -> None:
        """End every stream and the thread; may be called twice."""
        self._stop.set()
        self._tell()

    def join(self) -> None:
        """Wait for the thread to end (at most about a second when the database answers)."""
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    def _tell(self) -> None:
        for signal in self._subscribers:
            signal.set()

    def _listen(self) -> None:
        """Start the thread with the first subscriber: a server that nobody watches holds no connection."""
        self._loop = asyncio.get_running_loop()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="worklist-events", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with contextlib.closing(self._database.connect()) as conn:
                    conn.execute("LISTEN sangloc_worklist")
                    self._follow(conn)
            except (psycopg.OperationalError, Unavailable) as error:
                log.warning("worklist events interrupted", error=type(error).__name__)
                self._stop.wait(_RECONNECT_S)

    def _follow(self, conn: psycopg.Connection[Any]) -> None:
        self._changed()  # whatever happened while nobody listened
        mode = worklist.mode(conn, stale_s=self._config.stale_worker_s)
        looked_at = time.monotonic()
        while not self._stop.is_set():
            changed = bool(list(conn.notifies(timeout=_POLL_S, stop_after=1)))
            if time.monotonic() - looked_at > _MODE_EVERY_S:  # a worker that died tells nobody
                before, mode = mode, worklist.mode(conn, stale_s=self._config.stale_worker_s)
                looked_at = time.monotonic()
                changed = changed or before != mode
            if changed:
                self._changed()
                self._stop.wait(1.0 / self._config.events_per_s)  # what comes meanwhile is one change more, not many

    def _changed(self) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._tell)
