"""Wakes those who wait for event reports of workitems: one LISTEN connection of the process feeds every channel."""

from __future__ import annotations

import asyncio
import threading

from pacs.tasks import Bells
from storage import workitems
from storage.database import Database

__all__ = ["Reports"]


class Reports:
    """Wakes the open channels of this process when there may be new reports. Starts with the first channel."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._channels: dict[str, asyncio.Event] = {}  # by subscriber, the newest channel of each
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._bells: Bells | None = None
        self.closed = False

    def open(self, subscriber: str) -> asyncio.Event:
        """A channel: its event is set when there may be something to send. One that was open before is replaced."""
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._bells = Bells(self._database)
            self._bells.start()
            self._thread = threading.Thread(target=self._run, name="workitem-reports", daemon=True)
            self._thread.start()
        before = self._channels.get(subscriber)
        signal = self._channels[subscriber] = asyncio.Event()
        signal.set()
        if before is not None:
            before.set()
        return signal

    def is_current(self, subscriber: str, signal: asyncio.Event) -> bool:
        """Whether no newer channel of the subscriber was opened."""
        return self._channels.get(subscriber) is signal

    def leave(self, subscriber: str, signal: asyncio.Event) -> None:
        """Close a channel."""
        if self.is_current(subscriber, signal):
            del self._channels[subscriber]

    @property
    def clients(self) -> int:
        """Open channels."""
        return len(self._channels)

    def close(self) -> None:
        """End all channels and the thread; may be called twice. In the event loop."""
        self.closed = True
        self._ring()
        if self._bells is not None:
            bells, self._bells = self._bells, None
            threading.Thread(target=bells.close, daemon=True).start()

    def _run(self) -> None:
        assert self._bells is not None
        bell = self._bells.on(workitems.CHANNEL)
        while not self.closed:
            bell.wait()
            bell.clear()
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._ring)

    def _ring(self) -> None:
        for signal in self._channels.values():
            signal.set()
