"""From the bytes of a message to its acknowledgment: read, done once, noted, answered."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Callable
from typing import Literal, NamedTuple

import structlog

from pacs import reconciling
from pacs.hl7.acknowledgment import acknowledgment, wants_answer
from pacs.hl7.message import Failure, Header, Message, header_of, parse
from pacs.hl7.orders import Asked, asked_of, location_of
from pacs.hl7.patients import merges_of, patient_of
from pacs.ordering import Desk, InvalidOrder, Origin
from storage import changes, messages, orders
from storage.database import Connection, Database
from storage.errors import Conflict, InvalidInput, NotFound, Unavailable
from storage.messages import Incoming
from storage.orders import Stored

__all__ = ["Processor"]

log = structlog.get_logger()

_KIND = re.compile(r"[A-Z0-9]{3}", re.ASCII)  # anything else may be a piece of a name
_KNOWN_CODES = ("ORM", "OMI", "ADT")
# HL7 table 0119.
_NEW = frozenset({"NW", "RO"})
_CHANGE = frozenset({"XO", "XX"})
_CANCEL = frozenset({"CA", "OC", "CR", "RP", "RU"})
_DISCONTINUE = frozenset({"DC", "OD", "DR"})
_HOLD, _RELEASE, _STATUS = frozenset({"HD", "OH", "HR"}), frozenset({"RL", "OE", "OR"}), frozenset({"SC"})
_Progress = Literal["SCHEDULED", "ON_HOLD", "IN_PROGRESS", "COMPLETED"]
_STATES: dict[str, _Progress] = {
    "SC": "SCHEDULED",
    "HD": "ON_HOLD",
    "IP": "IN_PROGRESS",
    "A": "IN_PROGRESS",
    "CM": "COMPLETED",
}  # table 0038


class _Done(NamedTuple):
    orders: list[int]
    text: str


class Processor:
    """Answers messages. Thread-safe: what changes orders happens one after the other, in the database.

    Args:
        database: where the orders are.
        desk: where they are changed.
        now: the clock, for an order that says nothing about its time; on the clocks of the hospital.
    """

    def __init__(
        self,
        database: Database,
        desk: Desk,
        now: Callable[[], dt.datetime] = dt.datetime.now,
    ) -> None:
        self._database, self._desk, self._now = database, desk, now

    def answer(self, data: bytes, address: str) -> bytes:
        """The acknowledgment of a message, b"" where none is wanted. Whatever comes, it is answered and noted."""
        header = header_of(data)
        incoming = _incoming(header, data, address)
        try:
            if header is None:
                raise Failure("AR", 100, "The message does not begin with an MSH segment.")
            done = self._take(parse(data, header), incoming)
        except Failure as failure:
            return self._refuse(header, incoming, failure)
        except Unavailable as error:
            log.warning("hl7 message not taken", kind=incoming.kind, error=type(error).__name__)
            return self._refuse(header, None, Failure("AR", 207, "The database is away: send it again later."))
        except Exception as error:  # its text may quote the message
            log.error("hl7 message failed", kind=incoming.kind, error=type(error).__name__, at=_place(error))
            return self._refuse(header, incoming, Failure("AE", 207, "An internal error; it is in the log."))
        log.info("hl7 message taken", kind=incoming.kind, orders=done.orders, address=address)
        return acknowledgment(header, done.text) if wants_answer(header) else b""

    def too_long(self, head: bytes, address: str, reason: str) -> bytes:
        """The acknowledgment of a message of which only the beginning was read."""
        header = header_of(head)
        return self._refuse(header, _incoming(header, head, address), Failure("AR", 207, reason))

    def _take(self, message: Message, incoming: Incoming) -> _Done:
        work = _work_for(message.header)

        def once(connection: Connection) -> _Done:
            orders.lock(connection)
            before = messages.accepted_before(connection, incoming)
            if before is not None:
                return _Done([], f"{before} (again)")
            number = messages.note(connection, incoming, "AE", "not finished")
            done = work(self, connection, message, Origin(f"hl7 {incoming.sender}"[:80], number))
            messages.settle(connection, number, done.text, done.orders)
            return done

        try:
            if message.header.kind[0] == "ADT":
                done = changes.write(self._database, once)
            else:
                with self._database.transaction() as connection:
                    done = once(connection)
        except InvalidOrder as error:
            location = location_of(error.path)
            text = f"{'-'.join(location.split('^')[::2]) or error.path}: {error.message}"
            raise Failure("AE", 101 if error.message == "Field required" else 102, text, location) from None
        except Conflict as error:
            raise Failure("AE", 206, str(error)) from None
        except NotFound as error:
            raise Failure("AE", 204, str(error)) from None
        except InvalidInput as error:
            raise Failure("AE", 102, str(error)) from None
        if done.orders:
            self._desk.committed(self._database, done.orders, f"hl7 {incoming.sender}"[:80])
        return done

    def _refuse(self, header: Header | None, incoming: Incoming | None, failure: Failure) -> bytes:
        if incoming is not None:
            log.warning("hl7 message not taken", kind=incoming.kind, code=failure.code, reason=str(failure),
                        location=failure.location, address=incoming.address)  # fmt: skip
            try:
                with self._database.autocommit() as connection:
                    messages.note(connection, incoming, failure.code, str(failure))
            except Unavailable as error:
                log.warning("hl7 message not noted", error=type(error).__name__)
        return acknowledgment(header, failure=failure) if header is None or wants_answer(header) else b""

    # ---- what messages ask

    def _orders(self, connection: Connection, message: Message, origin: Origin) -> _Done:
        numbers, said = [], []
        for asked in asked_of(message, self._now()):
            number, text = self._order(connection, asked, origin)
            numbers.append(number)
            said.append(f"order {number} {text}")
        return _Done(numbers, "; ".join(said)[:200])

    def _order(self, connection: Connection, asked: Asked, origin: Origin) -> tuple[int, str]:
        known = _known(connection, asked)
        if asked.control in _NEW:
            return self._new(connection, known, asked, origin)
        if asked.control in _CHANGE:
            return self._changed(connection, known, asked, origin)
        if asked.control in _CANCEL | _DISCONTINUE:
            return self._withdrawn(connection, known, asked, origin)
        if asked.control not in _HOLD | _RELEASE | _STATUS:
            raise Failure("AE", 103, "This order control (ORC-1) is not understood.", "ORC^1^1")
        if known is None:
            raise Failure("AE", 204, "The order is not known.", "ORC^1^2")
        held = asked.control in _HOLD
        self._state(connection, known.order_pk, "HD" if held else asked.state or "SC", origin)
        return known.order_pk, "noted"

    def _new(self, connection: Connection, known: Stored | None, asked: Asked, origin: Origin) -> tuple[int, str]:
        if known is None:
            return self._desk.new(connection, _complete(asked), origin), "placed"
        if not known.announced:
            self._desk.change(connection, known.order_pk, _complete(asked), origin, fill=True)
            return known.order_pk, "was known from a later message"
        self._desk.change(connection, known.order_pk, asked.given, origin, whole=True)
        return known.order_pk, "was known: changed"

    def _changed(self, connection: Connection, known: Stored | None, asked: Asked, origin: Origin) -> tuple[int, str]:
        if known is None:
            return self._desk.new(connection, _complete(asked), origin, announced=False), "was not known: placed"
        self._desk.change(connection, known.order_pk, asked.given, origin, whole=True)
        if asked.state in _STATES:
            self._state(connection, known.order_pk, asked.state, origin)
        return known.order_pk, "changed"

    def _withdrawn(self, connection: Connection, known: Stored | None, asked: Asked, origin: Origin) -> tuple[int, str]:
        number = known.order_pk if known is not None else self._unknown(connection, asked, origin)
        done = self._desk.withdraw(
            connection, number, origin, "CANCELLED" if asked.control in _CANCEL else "DISCONTINUED"
        )
        if known is None:
            return number, "was not known: noted as withdrawn"
        return number, "withdrawn" if done else "was withdrawn before"

    def _unknown(self, connection: Connection, asked: Asked, origin: Origin) -> int:
        """A cancel that overtook its order: kept, so that the order does not come to life when it arrives."""
        try:
            return self._desk.new(connection, _complete(asked), origin, announced=False)
        except InvalidOrder:
            raise Failure("AE", 204, "The order is not known.", "ORC^1^2") from None

    def _state(self, connection: Connection, number: int, state: str, origin: Origin) -> None:
        if state in ("CA", "DC"):
            self._desk.withdraw(connection, number, origin, "CANCELLED" if state == "CA" else "DISCONTINUED")
            return
        to = _STATES.get(state)
        if to is None:
            raise Failure("AE", 103, "This order status (ORC-5) is not understood.", "ORC^1^5")
        self._desk.progress(connection, number, origin, to)

    def _updated(self, connection: Connection, message: Message, origin: Origin) -> _Done:
        patient = patient_of(message)
        if not patient.get("id"):
            raise Failure("AE", 101, "PID-3, the patient identifier, is missing.", "PID^1^3")
        numbers = reconciling.update(connection, self._desk, patient, origin)
        return _Done(numbers, f"patient updated, {len(numbers)} orders")

    def _merged(self, connection: Connection, message: Message, origin: Origin) -> _Done:
        numbers: list[int] = []
        for patient, prior in merges_of(message):
            numbers += reconciling.merge(connection, self._desk, patient, prior, origin)
        return _Done(numbers, f"patients merged, {len(numbers)} orders")


_Work = Callable[[Processor, Connection, Message, Origin], _Done]
_WORK: dict[tuple[str, str], _Work] = {
    ("ORM", "O01"): Processor._orders,
    ("OMI", "O23"): Processor._orders,
    ("ADT", "A08"): Processor._updated,
    ("ADT", "A31"): Processor._updated,
    ("ADT", "A40"): Processor._merged,
}


def _work_for(header: Header) -> _Work:
    code, event = header.kind
    work = _WORK.get((code, event or {"ORM": "O01", "OMI": "O23"}.get(code, "")))
    if work is not None:
        return work
    if code in _KNOWN_CODES:
        raise Failure("AR", 201, "This event (MSH-9.2) is not taken.", "MSH^1^9")
    raise Failure("AR", 200, "ORM^O01, OMI^O23, ADT^A08, ADT^A31 and ADT^A40 are taken.", "MSH^1^9")


def _known(connection: Connection, asked: Asked) -> Stored | None:
    """The order that is meant: by placer's or filler's number; by accession number if it has no placer's."""
    found = orders.find(connection, placer=asked.placer) or orders.find(connection, filler=asked.filler)
    if found is not None or not asked.accession:
        return found
    if asked.placer[0] or asked.filler[0]:
        others = orders.page(connection, accession=asked.accession, limit=2)
        bare = [each for each in others if not each.content["placer_number"] and not each.content["filler_number"]]
        return bare[0] if len(bare) == len(others) == 1 else None
    return orders.find(connection, accession=asked.accession)


def _complete(asked: Asked) -> dict[str, object]:
    """What is asked, with what a new order has where nothing is said."""
    start = asked.otherwise["start"]
    procedures = [
        {**procedure, "steps": [{"start": start, **step} for step in procedure["steps"]]}
        for procedure in asked.given["procedures"]
    ]
    rest = {key: value for key, value in asked.otherwise.items() if key != "start"}
    return {**rest, **asked.given, "procedures": procedures}


def _incoming(header: Header | None, data: bytes, address: str) -> Incoming:
    return Incoming(
        sender=header.sender if header else "",
        control_id=header.control_id if header else "",
        kind="^".join(part for part in header.kind if _KIND.fullmatch(part)) if header else "",
        sha256=hashlib.sha256(data).digest(),
        size=len(data),
        address=address,
    )


def _place(error: BaseException) -> str:
    """File and line that an error came from."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return f"{frame.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.tb_lineno}" if frame is not None else ""
