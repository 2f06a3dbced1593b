"""Orders as rows: one document each, with the columns that they are found by."""

from __future__ import annotations

# ruff: noqa: S608 - the statements are put together from constants only
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from storage import audit, names
from storage.database import Connection
from storage.errors import Conflict, NotFound
from storage.matching import comparable
from storage.ordered import OPEN, Order, OrderStatus

__all__ = [
    "Change", "Entry", "Linked", "Stored", "find", "get", "hasten", "hasten_recent", "history", "lock", "new_number",
    "of_patient", "page", "record", "studies", "write",
]  # fmt: skip

_LOCK = 0x6F726465  # "orde": orders change one after the other, so that two messages about one never cross
_LISTED = ("SCHEDULED", "IN_PROGRESS")

Change = tuple[str, Any, Any]
"""What changed: dotted path, value before, value after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An order as it stands; `announced` is false while only a change or cancel of it came, not the new order."""

    order_pk: int
    status: OrderStatus
    urgency: int
    max_wait: dt.timedelta | None
    announced: bool
    content: dict[str, Any]
    created_at: dt.datetime
    changed_at: dt.datetime

    @property
    def order(self) -> Order:
        """The document."""
        return Order.model_validate(self.content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that happened to an order."""

    at: dt.datetime
    actor: str
    action: str
    message_pk: int | None
    changes: list[list[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Linked:
    """A study that arrived for an order."""

    study_uid: str
    accession_number: str
    study_date: dt.date | None
    description: str
    modalities: list[str]
    arrived_at: dt.datetime
    due_at: dt.datetime
    priority: str
    state: str
    instance_count: int


_STORED = "SELECT order_pk, status, urgency, max_wait, announced, content, created_at, changed_at FROM orders"


def lock(connection: Connection) -> None:
    """Wait for a change of orders that is under way; holds to the end of the caller's transaction."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))


def new_number(connection: Connection) -> int:
    """The key of an order that is about to be written."""
    found = connection.execute("SELECT nextval(pg_get_serial_sequence('orders', 'order_pk'))").fetchone()
    assert found is not None
    return int(found[0])


def get(connection: Connection, order_pk: int) -> Stored:
    """One order; raises `NotFound`."""
    found = _select(connection, f"{_STORED} WHERE order_pk = %(pk)s", {"pk": order_pk})
    if not found:
        raise NotFound(f"There is no order {order_pk}.")
    return found[0]


def find(
    connection: Connection,
    *,
    placer: tuple[str, str] = ("", ""),
    filler: tuple[str, str] = ("", ""),
    accession: str = "",
) -> Stored | None:
    """The order with this number and issuer, by the first of the three that is given; None where there is none.

    Raises:
        Conflict: several orders have it.
    """
    for sql, values in (
        ("placer_number = %s AND placer_issuer = %s", placer),
        ("filler_number = %s AND filler_issuer = %s", filler),
        ("accession_number = %s", (accession,)),
    ):
        if values[0]:
            column = sql.partition(" ")[0]
            found = _select(connection, f"{_STORED} WHERE {sql} AND {column} <> '' ORDER BY order_pk LIMIT 2", values)
            if len(found) > 1:
                raise Conflict(f"Several orders have this {column.replace('_', ' ')}: say which by another number.")
            return found[0] if found else None
    return None


def write(
    connection: Connection,
    order_pk: int,
    order: Order,
    *,
    status: OrderStatus,
    announced: bool,
    urgency: int,
    max_wait: dt.timedelta | None,
) -> None:
    """Write an order, new or known, and the rows that its steps are found by; under `lock`."""
    patient = order.patient
    values = {
        "order_pk": order_pk,
        "status": status,
        "placer_number": order.placer_number,
        "placer_issuer": order.placer_issuer,
        "filler_number": order.filler_number,
        "filler_issuer": order.filler_issuer,
        "accession_number": order.accession_number,
        "patient_id": patient.id,
        "patient_issuer": patient.issuer,
        "patient_name_key": " ".join(names.words(patient.name)),
        "urgency": urgency,
        "max_wait": max_wait,
        "announced": announced,
        "content": Jsonb(order.model_dump(mode="json")),
    }
    columns = ", ".join(values)
    updates = ", ".join(f"{column} = excluded.{column}" for column in values if column != "order_pk")
    connection.execute(
        f"INSERT INTO orders ({columns}) OVERRIDING SYSTEM VALUE VALUES ({', '.join(f'%({each})s' for each in values)})"
        f" ON CONFLICT (order_pk) DO UPDATE SET {updates}, changed_at = clock_timestamp()".encode(),
        values,
    )
    _write_steps(connection, order_pk, order, status)


def _write_steps(connection: Connection, order_pk: int, order: Order, status: OrderStatus) -> None:
    rows = [
        (order_pk, procedure.procedure_id, step.step_id, procedure.study_uid, step.ae_title, step.modality, step.start,
         step.status, step.status in OPEN and status in _LISTED)
        for procedure in order.procedures
        for step in procedure.steps
    ]  # fmt: skip
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO order_steps (order_fk, procedure_id, step_id, study_uid, ae_title, modality, start_at, status,"
            " listed) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (order_fk, procedure_id, step_id) DO UPDATE SET study_uid = excluded.study_uid,"
            " ae_title = excluded.ae_title, modality = excluded.modality, start_at = excluded.start_at,"
            " status = excluded.status, listed = excluded.listed",
            rows,
        )


def record(
    connection: Connection,
    order_pk: int,
    actor: str,
    action: str,
    *,
    changes: Sequence[Change] = (),
    message_pk: int | None = None,
) -> None:
    """Note what happened to an order, in its history and in the audit log, which gets no values."""
    connection.execute(
        "INSERT INTO order_history (order_fk, actor, action, message_fk, changes) VALUES (%s, %s, %s, %s, %s)",
        (order_pk, actor, action, message_pk, Jsonb([list(change) for change in changes])),
    )
    detail = {"order": order_pk, "changed": [path for path, _, _ in changes][:50]}
    audit.add(connection, actor, action, detail=detail if message_pk is None else {**detail, "message": message_pk})


def page(
    connection: Connection,
    *,
    status: str | None = None,
    patient_id: str | None = None,
    accession: str | None = None,
    placer_number: str | None = None,
    study_uid: str | None = None,
    before: int | None = None,
    limit: int = 50,
) -> list[Stored]:
    """Orders that match all that is given, the newest first."""
    given: dict[str, str | None] = {
        "status = %(status)s": status,
        "patient_id = %(patient_id)s": patient_id,
        "accession_number = %(accession)s AND accession_number <> ''": accession,
        "placer_number = %(placer)s AND placer_number <> ''": placer_number,
        "order_pk = ANY(ARRAY(SELECT order_fk FROM order_steps WHERE study_uid = %(study)s))": study_uid,
    }
    conditions = ["order_pk < %(before)s", *(sql for sql, value in given.items() if value is not None)]
    keys = ("status", "patient_id", "accession", "placer", "study")
    values: dict[str, Any] = {
        key: comparable(value) for key, value in zip(keys, given.values(), strict=True) if value is not None
    }
    values |= {"before": before or 2**63 - 1, "limit": limit}
    return _select(
        connection, f"{_STORED} WHERE {' AND '.join(conditions)} ORDER BY order_pk DESC LIMIT %(limit)s", values
    )


def history(connection: Connection, order_pk: int) -> list[Entry]:
    """What happened to an order, the oldest first."""
    with connection.cursor(row_factory=class_row(Entry)) as cursor:
        return cursor.execute(
            "SELECT at, actor, action, message_fk AS message_pk, changes FROM order_history WHERE order_fk = %s"
            " ORDER BY history_pk",
            (order_pk,),
        ).fetchall()


def studies(connection: Connection, order_pk: int) -> list[Linked]:
    """The studies that arrived for an order: by its UIDs, or by its accession number for the same patient."""
    with connection.cursor(row_factory=class_row(Linked)) as cursor:
        return cursor.execute(
            "SELECT s.study_uid, s.accession_number, s.study_date, s.description, s.modalities, w.arrived_at, w.due_at,"
            " w.priority, w.state, (SELECT count(*) FROM instances WHERE NOT hidden AND series_fk = ANY(ARRAY("
            "  SELECT series_pk FROM series WHERE series.study_fk = s.study_pk AND NOT hidden))) AS instance_count"
            " FROM studies_of_order(%s) AS pk JOIN studies AS s ON s.study_pk = pk"
            " JOIN worklist AS w ON w.study_fk = pk"
            " WHERE NOT s.hidden ORDER BY w.arrived_at",
            (order_pk,),
        ).fetchall()


def hasten(connection: Connection, order_pk: int, actor: str) -> list[str]:
    """Bring the studies of an order forward to what its priority asks for, never back; the UIDs of those that moved.

    Call it once more after the order is committed: a study that was indexed at the same moment has not seen it.
    """
    moved = connection.execute("SELECT hastened_uid, now_due_at FROM hasten_studies(%s)", (order_pk,)).fetchall()
    for uid, due_at in moved:
        audit.add(connection, actor, "study.due", uid, {"order": order_pk, "due_at": due_at.isoformat()})
    return [uid for uid, _ in moved]


def hasten_recent(connection: Connection, since_s: float) -> list[str]:
    """`hasten` for all orders that changed in the last seconds."""
    found = connection.execute(
        "SELECT order_pk FROM orders AS o WHERE changed_at > clock_timestamp() - make_interval(secs => %s)"
        " AND status <> 'CANCELLED' AND EXISTS (SELECT FROM worklist WHERE"
        "  study_fk = ANY(ARRAY(SELECT studies_of_order(o.order_pk))) AND latest_due_at > arrived_at + o.max_wait)",
        (since_s,),
    ).fetchall()
    return [uid for (order_pk,) in found for uid in hasten(connection, order_pk, "order")]


def _select(connection: Connection, sql: str, values: Mapping[str, Any] | Sequence[Any]) -> list[Stored]:
    with connection.cursor(row_factory=class_row(Stored)) as cursor:
        return cursor.execute(sql.encode(), values).fetchall()


def of_patient(connection: Connection, patient_id: str, issuer: str, statuses: Sequence[str]) -> list[int]:
    """The orders of a patient in one of these states; the issuer counts where both sides name one."""
    rows = connection.execute(
        "SELECT order_pk FROM orders WHERE patient_id = %(id)s AND status = ANY(%(statuses)s)"
        " AND (patient_issuer = %(issuer)s OR patient_issuer = '' OR %(issuer)s = '') ORDER BY order_pk",
        {"id": comparable(patient_id), "issuer": comparable(issuer), "statuses": list(statuses)},
    )
    return [order_pk for (order_pk,) in rows]
