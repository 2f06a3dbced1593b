"""What a background task of the exchange process is given, and how it is woken.

A task is a function that runs until its `stop` is set: it works off what is due, then waits on a bell. Nothing is
polled fast: a bell is rung by a NOTIFY of the database, and the task looks by itself from time to time, so a
notification that is lost does no harm.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from weakref import WeakSet

import psycopg
import structlog
from psycopg import sql

from storage.database import Connection, Database
from storage.errors import DatabaseUnavailable
from storage.objects import ObjectStore
from storage.removal import DEFAULT_POLICY, RejectionPolicy

if TYPE_CHECKING:
    from pacs.hl7.config import Hl7Config

__all__ = ["Bells", "Exchange", "ExchangeConfig", "Task"]

log = structlog.get_logger()

_AWAY_S = (0.5, 15.0)  # between two tries to reach the database


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeConfig:
    """What the tasks are told by the settings; each has a default."""

    ae_title: str = "SANGLOC"  # the calling AE title of what we send
    certificate: Path | None = None  # ours, for peers that speak TLS and ask for one
    key: Path | None = None
    authorities: Path | None = None  # that sign the certificates of peers; None: those of the system
    timeout_s: float = 30.0  # longest silence of a peer that we talk to
    hl7: Hl7Config | None = None  # None: no HL7 messages are taken
    settle_s: float = 60.0  # a study is complete when nothing new came to it for so long
    report_objects: Literal["none", "sr", "all"] = "none"  # what is written of a flagged image
    report_max_age_s: float = 7 * 86_400  # images that came longer ago get no objects
    retrieve_url: str = ""  # of our DICOMweb service as others reach it; '': not told
    rejection: RejectionPolicy = DEFAULT_POLICY  # how long what was removed can be restored, whose notes count


class Bells:
    """One listening connection for all tasks of the process. Safe from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._bells: dict[str, WeakSet[threading.Event]] = {}
        self._changed, self._change = socket.socketpair()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="bells", daemon=True)

    def on(self, *channels: str) -> threading.Event:
        """A bell of one's own that a NOTIFY on any of the channels rings; clear it, then look for work, then wait.

        It has rung already: what was notified before, nobody heard. It is rung for the last time when all must stop.
        """
        bell = threading.Event()
        bell.set()
        with self._lock:
            for channel in channels:
                self._bells.setdefault(channel, WeakSet()).add(bell)
            if not self._over:
                self._change.send(b"\0")
        return bell

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """Ring all bells a last time and stop listening."""
        with self._lock:
            self._over = True
            self._change.send(b"\0")
        if self._thread.is_alive():
            self._thread.join(_AWAY_S[1])
        for channel in self._bells:
            self._ring(channel)
        self._change.close()
        self._changed.close()

    def _run(self) -> None:
        pause = _AWAY_S[0]
        while not self._over:
            try:
                with self._database.connect() as connection:
                    pause = _AWAY_S[0]
                    self._listen(connection)
            except (DatabaseUnavailable, psycopg.Error) as error:
                log.warning("the database cannot wake the exchange", error=str(error).splitlines()[0])
                select.select([self._changed], [], [], pause)
                pause = min(pause * 2, _AWAY_S[1])

    def _listen(self, connection: Connection) -> None:
        heard: set[str] = set()
        while not self._over:
            for channel in set(self._bells) - heard:
                connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                heard.add(channel)
                self._ring(channel)  # what was notified before nobody heard
            for note in connection.notifies(timeout=0):
                self._ring(note.channel)
            ready, _, _ = select.select([connection.fileno(), self._changed.fileno()], [], [])
            if self._changed.fileno() in ready:
                self._changed.recv(4096)

    def _ring(self, channel: str) -> None:
        for bell in list(self._bells[channel]):
            bell.set()


@dataclass(frozen=True, slots=True)
class Exchange:
    """The parts of one exchange process."""

    database: Database
    store: ObjectStore
    config: ExchangeConfig = field(default_factory=ExchangeConfig)
    bells: Bells = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bells", Bells(self.database))


Task = Callable[[Exchange, threading.Event], None]
