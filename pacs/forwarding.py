"""The background task that applies the rules of forwarding and keeps a courier for each destination with work."""

from __future__ import annotations

import datetime as dt
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

import structlog

from storage import destinations, forwarding, worklist
from storage.errors import Unavailable
from storage.routing import Horizon, Marks, apply_rules

if TYPE_CHECKING:
    from pacs.courier import Courier
    from pacs.tasks import Exchange

__all__ = ["Forwarder", "forward"]

log = structlog.get_logger()

_BREATH_S = 0.2  # between two looks at what came in, however fast it comes
_UNSETTLED_S = 0.02  # a transaction that was under way is asked about again
_LOOK_S = (2.0, 60.0)  # at least so often while something waits, and while nothing does
_NO_RULES_S = 60.0  # how often the cursor follows while there are no rules
_LEASE_S = 15.0  # after which another process may take over from one that died
_ROUTE_S = 1.0  # rules are applied for so long at a time: leases must be renewed
_DRAIN_S = 5.0
_REMIND_S = 60.0  # between two looks for reports of commitment that did not come
_REPORT_S = 900.0  # a report that has not come by then will not come: ask again


def forward(exchange: Exchange, stop: threading.Event) -> None:
    """Route and send until `stop` is set."""
    forwarder = Forwarder(exchange)
    bell = exchange.bells.on(worklist.CHANNEL, destinations.CHANNEL)
    away = False
    try:
        while not stop.is_set():
            bell.clear()
            try:
                pause_s = forwarder.step()
                away = False
            except Unavailable as error:
                if not away:
                    log.warning("forwarding waits", error=str(error).splitlines()[0])
                away, pause_s = True, 1.0
            bell.wait(pause_s)
            stop.wait(_BREATH_S)
    finally:
        forwarder.close()


class Forwarder:
    """Applies rules and starts couriers; one for each process."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{time.time_ns()}"
        self._couriers: dict[int, Courier] = {}
        self._horizon = Horizon()
        self._marks: Marks | None = None  # up to which rules are being applied
        self._routed_at = -_NO_RULES_S
        self._reminded_at = -_REMIND_S

    def step(self) -> float:
        """Do what is due; seconds until the next look unless somebody rings. Raises `Unavailable`."""
        self._tend()
        settled = self._route()
        self._remind()
        self._start()
        if not settled:
            return _UNSETTLED_S
        with self._exchange.database.autocommit() as connection:
            waits = bool(self._couriers) or forwarding.pending(connection)
        return _LOOK_S[0] if waits else _LOOK_S[1]

    def close(self) -> None:
        """Halt all couriers and wait a while for them."""
        for courier in self._couriers.values():
            courier.halt()
        deadline = time.monotonic() + _DRAIN_S
        for courier in self._couriers.values():
            courier.join(max(0.0, deadline - time.monotonic()))

    def _route(self) -> bool:
        """Apply the rules to what is settled; False when something is left, or was still under way."""
        database = self._exchange.database
        with database.autocommit() as connection:
            busy = bool(destinations.all_rules(connection))
            if not busy and time.monotonic() - self._routed_at < _NO_RULES_S:
                return True
            self._marks = self._marks or self._horizon.look(connection)
        if busy:
            _couriers()
        if self._marks is None:
            return False
        self._routed_at = time.monotonic()
        while time.monotonic() - self._routed_at < _ROUTE_S:
            with database.transaction() as connection:
                if not apply_rules(connection, self._marks, self._exchange.config.settle_s):
                    self._marks = None
                    return True
        return False

    def _remind(self) -> None:
        if time.monotonic() - self._reminded_at > _REMIND_S:
            with self._exchange.database.autocommit() as connection:
                forwarding.ask_again(connection, _REPORT_S)
            self._reminded_at = time.monotonic()

    def _tend(self) -> None:
        """Forget couriers that have ended; keep the leases of the others, and halt those who have lost theirs."""
        self._couriers = {pk: courier for pk, courier in self._couriers.items() if courier.working}
        with self._exchange.database.autocommit() as connection:
            for pk, courier in self._couriers.items():
                if not forwarding.lease(connection, pk, self._owner, _LEASE_S):
                    courier.halt()

    def _start(self) -> None:
        """A courier for each destination with work that nobody works for."""
        now = dt.datetime.now(dt.UTC)
        with self._exchange.database.autocommit() as connection:
            for destination in forwarding.due(connection):
                pk = destination.destination_pk
                if pk in self._couriers or destination.open_at(now) is None:
                    continue
                if forwarding.lease(connection, pk, self._owner, _LEASE_S):
                    self._couriers[pk] = _couriers()(self._exchange, destination, self._owner)
                    self._couriers[pk].start()


def _couriers() -> type[Courier]:
    """Loaded with the first rule: a process that forwards nothing needs nothing that speaks DICOM."""
    from pacs.courier import Courier  # noqa: PLC0415

    return Courier
