"""The receiver: one blocking thread for each connection, limits on all of them, and a drain at the end.

Threads that block in the kernel cost nothing while they wait, and a hundred idle associations delay nobody; polling
loops (pynetdicom's own association threads wake every millisecond) would.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import select
import socket
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

from pacs.dimse.association import Association, Handler, Phase, Rejection, Shared
from pacs.dimse.counters import Counters
from pacs.dimse.policy import ReceiverPolicy
from pacs.dimse.services import SERVICES
from pacs.dimse.tls import server_context
from storage.database import Database

if TYPE_CHECKING:
    from pacs.ingest import Ingest

__all__ = ["Receiver"]

log = structlog.get_logger()

_STACK_BYTES = 1 << 20  # virtual; a thread touches some 40 kB of it
_ACCEPT_TICK_MS = 100  # how soon a stop is seen
_YIELD_S, _MOST_YIELDS = 0.001, 5  # for each connection at work
_YIELDS_IN_A_ROW = 10  # while more connections wait: nobody is late because he came in a crowd
_AT_WORK_S = 0.1  # a connection that did something so lately counts as one at work
_DRAIN_TICK_S = 0.02
_M_ARENA_MAX = -8  # of mallopt(3)


class Receiver:
    """One receiver process behind a listening socket that it may share with others.

    `run` blocks until `stop` is set and then drains. The socket is closed at that moment in this process only.
    """

    def __init__(
        self,
        ingest: Ingest,
        policy: ReceiverPolicy,
        sock: socket.socket,
        *,
        services: Mapping[int, Handler] = SERVICES,
        counters: Counters | None = None,
    ) -> None:
        self.counters = counters or Counters()
        self._policy = policy
        self._listen = sock
        self._lock = threading.Lock()
        self._associations = 0
        self._draining = False
        self._open: dict[Association, None] = {}  # in the order of their arrival
        self._searches = Database(
            ingest.database.conninfo,
            max_connections=policy.find_connections,
            statement_timeout_s=policy.find_timeout_s,
        )
        self._shared = Shared(
            ingest=ingest,
            policy=policy,
            services=services,
            admit=self._admit,
            leave=self._leave,
            tls=server_context(policy.tls) if policy.tls else None,
            searches=self._searches,
            counters=self.counters,
        )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the listening socket."""
        host, port, *_ = self._listen.getsockname()
        return str(host), int(port)

    def run(self, stop: threading.Event) -> None:
        """Accept connections until `stop` is set, then `drain`."""
        _spare_memory()
        self._listen.setblocking(False)
        incoming = select.poll()
        incoming.register(self._listen, select.POLLIN)
        log.info("receiver ready", ae_title=self._policy.ae_title, port=self.address[1])
        try:
            spare = _YIELDS_IN_A_ROW
            while not stop.is_set():
                if not incoming.poll(0):
                    spare = _YIELDS_IN_A_ROW
                    if not incoming.poll(_ACCEPT_TICK_MS):
                        continue
                # All processes that share the socket wake; who has less to do is quicker: senders spread evenly.
                if spare and (yields := min(self._at_work(), spare)):
                    spare -= yields
                    time.sleep(yields * _YIELD_S)
                self._accept()
        finally:
            self.drain()

    def _accept(self) -> None:
        try:
            sock, address = self._listen.accept()
        except BlockingIOError:
            return
        except OSError as error:  # out of file descriptors, or the peer is gone already
            log.warning("accept failed", error=str(error))
            self._evict()
            time.sleep(_DRAIN_TICK_S)
            return
        self.counters.add("connections")
        if len(self._open) >= self._policy.max_connections and not self._evict():
            log.warning("too many connections", address=address[0])
            sock.close()
            return
        association = Association(sock, address[0], self._shared)
        with self._lock:
            self._open[association] = None
        thread = threading.Thread(target=self._serve, args=(association,), name=f"dimse {address[0]}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            log.warning("too many threads", address=address[0], error=str(error))
            self._forget(association)
            sock.close()

    def _at_work(self) -> int:
        """Connections with a message on its way or something done a moment ago, at most `_MOST_YIELDS`."""
        lately = time.monotonic() - _AT_WORK_S
        working = (a for a in self._running() if a.phase is Phase.BUSY or a.since > lately)
        return sum(1 for _ in itertools.islice(working, _MOST_YIELDS))

    def _serve(self, association: Association) -> None:
        try:
            association.run()
        finally:
            self._forget(association)

    def _forget(self, association: Association) -> None:
        with self._lock:
            self._open.pop(association, None)

    def _evict(self) -> bool:
        """Close the oldest connection that is no association (any more); False when all are."""
        with self._lock:
            silent = next((a for a in self._open if a.phase in {Phase.OPENING, Phase.CLOSING}), None)
            if silent is None:
                return False
            del self._open[silent]
        silent.cut()
        return True

    def _admit(self) -> Rejection | None:
        with self._lock:
            if self._draining:
                return Rejection.STOPPING
            if self._associations >= self._policy.max_associations:
                return Rejection.LIMIT
            self._associations += 1
            return None

    def _leave(self) -> None:
        with self._lock:
            self._associations -= 1

    def drain(self) -> None:
        """Refuse new associations, let running ones finish until the drain time-out, then cut what is left."""
        with self._lock:
            self._draining = True
        self._listen.close()
        deadline = time.monotonic() + self._policy.drain_timeout_s
        while (running := self._running()) and time.monotonic() < deadline:
            for association in running:
                if association.phase is not Phase.BUSY and _idle_s(association) > self._policy.drain_idle_s:
                    association.cut()
            time.sleep(_DRAIN_TICK_S)
        for association in self._running():
            log.warning("association cut by the drain time-out", calling=association.calling)
            association.cut()
        self._searches.close()
        log.info("receiver stopped", **self.counters.snapshot())

    def _running(self) -> list[Association]:
        with self._lock:
            return list(self._open)


def _idle_s(association: Association) -> float:
    return time.monotonic() - association.since


def _spare_memory() -> None:
    """Small thread stacks, and two malloc arenas instead of eight a core: memory stays flat over many threads."""
    threading.stack_size(_STACK_BYTES)
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
