"""Performed procedure steps (PS3.4 F.7): what modalities did, for which scheduled steps, and what of it has arrived."""

from __future__ import annotations

# ruff: noqa: S608 - the statements are put together from constants only
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from storage import audit
from storage.database import Connection
from storage.errors import NotFound
from storage.matching import comparable

__all__ = [
    "AWAITED_S", "LinkedStep", "ScheduledKey", "State", "Step", "add", "content_of", "link", "linked", "note_complete",
    "of_order", "page", "states", "unlink", "update",
]  # fmt: skip

State = Literal["IN PROGRESS", "COMPLETED", "DISCONTINUED"]
AWAITED_S = 30 * 86_400.0  # images that have not come by then are not looked for any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One performed step, with how many of its instances are here."""

    performed_pk: int
    sop_uid: str
    status: State
    source_aet: str
    modality: str
    step_id: str
    study_uids: list[str]
    orders: list[int]
    referenced: int
    arrived: int
    created_at: dt.datetime
    changed_at: dt.datetime
    complete_at: dt.datetime | None

    @property
    def complete(self) -> bool:
        """Whether the modality is done and everything that it made is here."""
        return self.status != "IN PROGRESS" and self.arrived == self.referenced


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledKey:
    """What a modality says of the scheduled step that it performs."""

    study_uid: str
    accession_number: str
    procedure_id: str
    step_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkedStep:
    """A scheduled step that something was performed for."""

    order_pk: int
    step_pk: int
    procedure_id: str
    step_id: str


_STEP = """
SELECT p.performed_pk, p.sop_uid, p.status, p.source_aet, p.modality, p.step_id, p.study_uids, p.created_at,
    p.changed_at, p.complete_at, cardinality(p.instance_uids) AS referenced,
    (SELECT count(*) FROM instances WHERE sop_uid = ANY(p.instance_uids) AND NOT hidden) AS arrived,
    ARRAY(SELECT DISTINCT order_fk FROM performed_links JOIN order_steps ON step_pk = step_fk
        WHERE performed_fk = p.performed_pk ORDER BY 1) AS orders
FROM performed_steps AS p"""


def add(
    connection: Connection,
    sop_uid: str,
    *,
    source_aet: str,
    modality: str,
    step_id: str,
    study_uids: Sequence[str],
    instance_uids: Sequence[str],
    content: Any,
) -> int | None:
    """A step that was begun; its key, or None where the UID is known."""
    found = connection.execute(
        "INSERT INTO performed_steps (sop_uid, status, source_aet, modality, step_id, study_uids, instance_uids,"
        " content) VALUES (%s, 'IN PROGRESS', %s, %s, %s, %s, %s, %s) ON CONFLICT (sop_uid) DO NOTHING"
        " RETURNING performed_pk",
        (sop_uid, source_aet, modality, step_id, list(study_uids), list(instance_uids), Jsonb(content)),
    ).fetchone()
    return None if found is None else int(found[0])


def content_of(connection: Connection, sop_uid: str) -> tuple[int, State, dict[str, Any]]:
    """Key, state and DICOM JSON of a step, which stays locked to the end of the transaction; raises `NotFound`."""
    found = connection.execute(
        "SELECT performed_pk, status, content FROM performed_steps WHERE sop_uid = %s FOR UPDATE", (sop_uid,)
    ).fetchone()
    if found is None:
        raise NotFound(f"There is no performed procedure step {sop_uid}.")
    return found[0], found[1], found[2]


def update(
    connection: Connection, performed_pk: int, *, status: State, instance_uids: Sequence[str], content: Any
) -> None:
    """Write what a step is now."""
    connection.execute(
        "UPDATE performed_steps SET status = %s, instance_uids = %s, content = %s, changed_at = clock_timestamp()"
        " WHERE performed_pk = %s",
        (status, list(instance_uids), Jsonb(content), performed_pk),
    )


def link(connection: Connection, performed_pk: int, keys: Sequence[ScheduledKey]) -> None:
    """Note which scheduled steps a performed one is for: by study UID and step ID, else by what names the order."""
    for key in keys:
        for condition in _LINKS:
            linked = connection.execute(
                f"INSERT INTO performed_links (performed_fk, step_fk) SELECT %(performed)s, step_pk FROM order_steps"
                f" WHERE {condition} ON CONFLICT DO NOTHING".encode(),
                {
                    "performed": performed_pk,
                    "study": key.study_uid,
                    "step": key.step_id,
                    "procedure": key.procedure_id,
                    "accession": key.accession_number,
                },
            )
            if linked.rowcount:
                break


_OF_ACCESSION = (
    "order_fk = ANY(ARRAY(SELECT order_pk FROM orders WHERE accession_number = %(accession)s"
    " AND accession_number <> '' AND status <> 'CANCELLED'))"
)
_LINKS = (
    "study_uid = %(study)s AND step_id = %(step)s",
    f"step_id = %(step)s AND {_OF_ACCESSION}",
    f"procedure_id = %(procedure)s AND {_OF_ACCESSION}",
    "study_uid = %(study)s AND %(step)s = ''",  # it names no step: the whole study
)


def linked(connection: Connection, performed_pk: int) -> list[LinkedStep]:
    """The scheduled steps that a performed one is for."""
    with connection.cursor(row_factory=class_row(LinkedStep)) as cursor:
        return cursor.execute(
            "SELECT order_fk AS order_pk, step_pk, procedure_id, step_id FROM performed_links"
            " JOIN order_steps ON step_pk = step_fk WHERE performed_fk = %s ORDER BY step_pk",
            (performed_pk,),
        ).fetchall()


def unlink(connection: Connection, performed_pk: int) -> None:
    """A performed step was for none of those that it named."""
    connection.execute("DELETE FROM performed_links WHERE performed_fk = %s", (performed_pk,))


def states(connection: Connection, step_pk: int) -> set[str]:
    """The states of all that was performed for a scheduled step."""
    rows = connection.execute(
        "SELECT DISTINCT status FROM performed_links JOIN performed_steps ON performed_pk = performed_fk"
        " WHERE step_fk = %s",
        (step_pk,),
    )
    return {state for (state,) in rows}


def page(
    connection: Connection,
    *,
    study_uid: str | None = None,
    complete: bool | None = None,
    before: int | None = None,
    limit: int = 50,
) -> list[Step]:
    """Performed steps, the newest first; `complete`: those that are noted as complete, or not."""
    conditions = ["p.performed_pk < %(before)s"]
    if study_uid is not None:
        conditions.append("p.study_uids @> ARRAY[%(study)s]")
    if complete is not None:
        conditions.append(f"p.complete_at IS {'NOT ' if complete else ''}NULL")
    sql = f"{_STEP} WHERE {' AND '.join(conditions)} ORDER BY p.performed_pk DESC LIMIT %(limit)s"
    return _select(
        connection, sql, {"before": before or 2**63 - 1, "study": comparable(study_uid or ""), "limit": limit}
    )


def of_order(connection: Connection, order_pk: int) -> list[Step]:
    """What was performed for an order, the oldest first."""
    linked = "SELECT performed_fk FROM performed_links JOIN order_steps ON step_pk = step_fk WHERE order_fk = %(order)s"
    sql = f"{_STEP} WHERE p.performed_pk = ANY(ARRAY({linked})) ORDER BY p.performed_pk"
    return _select(connection, sql, {"order": order_pk})


def note_complete(connection: Connection, performed_pk: int | None = None, *, within_s: float = AWAITED_S) -> list[str]:
    """Note which final steps have all their instances now, in the audit log too; their SOP Instance UIDs.

    Args:
        connection: in a transaction.
        performed_pk: look at this one only.
        within_s: look at those that changed within so many seconds.
    """
    rows = connection.execute(
        "UPDATE performed_steps AS p SET complete_at = clock_timestamp() WHERE complete_at IS NULL"
        " AND status <> 'IN PROGRESS' AND changed_at > now() - make_interval(secs => %(within)s)"
        " AND (%(one)s::bigint IS NULL OR performed_pk = %(one)s) AND cardinality(instance_uids) ="
        "  (SELECT count(*) FROM instances WHERE sop_uid = ANY(p.instance_uids) AND NOT hidden)"
        " RETURNING sop_uid, status, study_uids, cardinality(instance_uids)",
        {"within": within_s, "one": performed_pk},
    ).fetchall()
    for sop_uid, status, study_uids, count in rows:
        for study_uid in study_uids:
            detail = {"performed_step": sop_uid, "status": status, "instances": count}
            audit.add(connection, "mpps", "study.complete", study_uid, detail)
    return [row[0] for row in rows]


def _select(connection: Connection, sql: str, values: Mapping[str, Any]) -> list[Step]:
    with connection.cursor(row_factory=class_row(Step)) as cursor:
        return cursor.execute(sql.encode(), values).fetchall()
