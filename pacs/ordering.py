"""What may happen to an order: placed, changed, held, performed, withdrawn; the one way for the API, HL7 and MPPS.

A change names only what changes. It is merged into the document, the whole is checked, and what differs is kept in
the order's history. Nothing here trusts a clock: what came first is what was committed first.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from pydantic import ValidationError

from pacs.merging import Document, differences, merged, numbered, with_steps
from storage import orders, worklist
from storage.database import Connection, Database
from storage.errors import Conflict, DatabaseUnavailable, InvalidInput
from storage.ordered import OPEN, Order, OrderStatus
from storage.orders import Change, Stored

__all__ = ["Desk", "InvalidOrder", "Origin", "Promise", "no_promise"]

log = structlog.get_logger()

Promise = Callable[[str, str], tuple[int, dt.timedelta | None]]
"""From Requested Procedure Priority and the station's AE title to urgency (0 to 2) and longest wait after arrival."""

_UNDER_WAY = {*OPEN, "IN_PROGRESS"}
_PROGRESS: dict[str, int] = {"ON_HOLD": 0, "SCHEDULED": 0, "IN_PROGRESS": 1, "COMPLETED": 2}


class InvalidOrder(InvalidInput):
    """An order would not be one; `path` is the part at fault, such as patient.name."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path, self.message = path, message


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asks for a change: the actor of the audit log, and the HL7 message that brought it."""

    actor: str
    message_pk: int | None = None


def no_promise(priority: str, _ae_title: str) -> tuple[int, dt.timedelta | None]:
    """The urgency alone; nothing is promised about the wait."""
    return {"STAT": 2, "HIGH": 1}.get(priority, 0), None


class Desk:
    """Where orders are changed. Each method works in the caller's transaction and takes the lock of all orders."""

    def __init__(self, promise: Promise = no_promise) -> None:
        self._promise = promise

    def new(self, connection: Connection, given: Mapping[str, Any], origin: Origin, *, announced: bool = True) -> int:
        """Place an order; its number. What has no identifier (study UID, procedure and step ID) is given one.

        Raises:
            InvalidOrder: something is missing or malformed.
            Conflict: the placer's or filler's number is taken.
        """
        orders.lock(connection)
        _refuse_known(connection, given)
        number = orders.new_number(connection)
        order = _checked(numbered(merged({}, given), number))
        self._write(connection, number, order, "SCHEDULED", announced)
        orders.record(connection, number, origin.actor, "order.new", message_pk=origin.message_pk)
        orders.hasten(connection, number, origin.actor)
        return number

    def change(
        self,
        connection: Connection,
        number: int,
        given: Mapping[str, Any],
        origin: Origin,
        *,
        whole: bool = False,
        fill: bool = False,
    ) -> list[Change]:
        """Merge what is given into an order; what changed.

        Args:
            connection: in a transaction.
            number: of the order.
            given: only what changes; None takes a value away. Procedures and steps are found by their IDs.
            origin: who asks.
            whole: what is given are all procedures and steps; open ones that are not named are cancelled.
            fill: the new order comes after its change: only what is still empty is taken.

        Raises:
            InvalidOrder: the order would not be one.
            Conflict: it is cancelled, or it is not clear which procedure or step is meant.
        """
        orders.lock(connection)
        stored = orders.get(connection, number)
        if stored.status == "CANCELLED" and not fill:
            raise Conflict("The order is cancelled: it cannot be changed, place a new one.")
        order = _checked(numbered(merged(stored.content, given, whole=whole, fill=fill), number))
        changes = differences(stored.content, order.model_dump(mode="json"))
        if changes or fill:
            _refuse_known(connection, order.model_dump(), number)
            self._write(connection, number, order, stored.status, announced=stored.announced or fill)
            action = "order.new" if fill else "order.changed"
            orders.record(connection, number, origin.actor, action, changes=changes, message_pk=origin.message_pk)
            orders.hasten(connection, number, origin.actor)
        return changes

    def withdraw(
        self, connection: Connection, number: int, origin: Origin, to: Literal["CANCELLED", "DISCONTINUED"]
    ) -> bool:
        """Cancel an order that was not begun, or discontinue one that was; False when that has happened already.

        Raises:
            Conflict: it was performed, or a cancel comes for one that a modality works on.
        """
        orders.lock(connection)
        stored = orders.get(connection, number)
        if stored.status in ("CANCELLED", "DISCONTINUED"):
            return False
        if stored.status == "COMPLETED":
            raise Conflict("The order was performed: it cannot be withdrawn.")
        if stored.status == "IN_PROGRESS" and to == "CANCELLED":
            raise Conflict("A modality works on the order: it can be discontinued, not cancelled.")
        content = _all_steps(stored.content, to)
        self._move(connection, stored, content, to, origin)
        return True

    def progress(
        self,
        connection: Connection,
        number: int,
        origin: Origin,
        to: Literal["SCHEDULED", "ON_HOLD", "IN_PROGRESS", "COMPLETED"],
    ) -> bool:
        """What another system says of an order's state; False where that is no news. Nothing goes back: a performed
        order does not get scheduled by a message that comes late.

        Raises:
            Conflict: the order is cancelled.
        """
        orders.lock(connection)
        stored = orders.get(connection, number)
        if stored.status in ("CANCELLED", "DISCONTINUED"):
            raise Conflict("The order is cancelled: it has no further state.")
        if stored.status == to or _PROGRESS[to] < _PROGRESS[stored.status]:
            return False
        content = stored.content
        if to in ("IN_PROGRESS", "COMPLETED"):
            content = _all_steps(content, to)
        self._move(connection, stored, content, to, origin)
        return True

    def steps_moved(
        self, connection: Connection, number: int, steps: Mapping[tuple[str, str], str], origin: Origin
    ) -> None:
        """A modality reported on steps, by procedure ID and step ID; the order follows them."""
        orders.lock(connection)
        stored = orders.get(connection, number)
        content = with_steps(stored.content, steps.get)
        self._move(connection, stored, content, _status_by_steps(stored.status, content), origin)

    def committed(self, database: Database, numbers: Iterable[int], actor: str) -> None:
        """After the commit: look once more for studies that were indexed at that moment, and tell the worklist."""
        try:
            with database.transaction() as connection:
                for number in numbers:
                    orders.hasten(connection, number, actor)
            with database.autocommit() as connection:
                worklist.announce(connection)
        except DatabaseUnavailable as error:  # the exchange process looks again, too
            log.warning("orders not looked at again", error=str(error).splitlines()[0])

    def _move(
        self, connection: Connection, stored: Stored, content: Document, status: OrderStatus, origin: Origin
    ) -> None:
        order = _checked(content)
        changes = differences(stored.content, order.model_dump(mode="json"))
        if status != stored.status:
            changes.insert(0, ("status", stored.status, status))
        if changes:
            orders.write(
                connection,
                stored.order_pk,
                order,
                status=status,
                announced=stored.announced,
                urgency=stored.urgency,
                max_wait=stored.max_wait,
            )
            action = f"order.{status.lower()}" if status != stored.status else "order.changed"
            orders.record(
                connection, stored.order_pk, origin.actor, action, changes=changes, message_pk=origin.message_pk
            )

    def _write(self, connection: Connection, number: int, order: Order, status: OrderStatus, announced: bool) -> None:
        station = next((step.ae_title for procedure in order.procedures for step in procedure.steps), "")
        urgency, max_wait = self._promise(order.priority, station)
        orders.write(connection, number, order, status=status, announced=announced, urgency=urgency, max_wait=max_wait)


def _refuse_known(connection: Connection, given: Mapping[str, Any], but: int | None = None) -> None:
    """Raise `Conflict` where another order has the placer's or the filler's number."""
    placer, filler = (
        (str(given.get(f"{name}_number") or ""), str(given.get(f"{name}_issuer") or ""))
        for name in ("placer", "filler")
    )
    for known in (orders.find(connection, placer=placer), orders.find(connection, filler=filler)):
        if known is not None and known.order_pk != but:
            raise Conflict(f"The placer or filler number is that of order {known.order_pk}.")


def _checked(content: Mapping[str, Any]) -> Order:
    try:
        return Order.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        raise InvalidOrder(path, first["msg"].removeprefix("Value error, ")) from None


def _all_steps(content: Document, to: str) -> Document:
    """What is not over yet moves."""
    return with_steps(content, lambda _, status: to if status in _UNDER_WAY else status)


def _status_by_steps(before: OrderStatus, content: Document) -> OrderStatus:
    """The state of an order whose steps a modality reports on."""
    statuses = {step["status"] for procedure in content["procedures"] for step in procedure["steps"]}
    if before in ("CANCELLED", "ON_HOLD") and not statuses & {"IN_PROGRESS", "COMPLETED"}:
        return before
    if "IN_PROGRESS" in statuses or (statuses & {*OPEN} and "COMPLETED" in statuses):
        return "IN_PROGRESS"
    if statuses & {*OPEN}:
        return "SCHEDULED"
    return "COMPLETED" if "COMPLETED" in statuses else "DISCONTINUED" if "DISCONTINUED" in statuses else before
