"""Instances that are hidden: deleted by a person, or rejected by a person or a rejection note (IHE RAD TF-1 29, IOCM).

`removed_instances` says why; an instance is hidden while a row there names it, whether it is here already or comes
later. Restoring takes the rows away. When the grace time is over, the task `pacs/purging.py` removes rows and objects.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from storage import audit, changes
from storage.changes import By, Change
from storage.database import Connection
from storage.errors import Conflict, InvalidInput, NotFound

__all__ = [
    "DEFAULT_POLICY", "REASONS", "RETURNING", "Code", "Reason", "RejectionPolicy", "Scope", "hide", "hide_note",
    "reject", "remove", "resent", "restore", "restore_change",
]  # fmt: skip

Reason = Literal["quality", "patient_safety", "wrong_worklist", "retention_expired"]


class Code(NamedTuple):
    """A document title of a rejection note (PS3.16 CID 7011), scheme DCM."""

    value: str
    meaning: str


REASONS: dict[str, Code] = {
    "quality": Code("113001", "Rejected for Quality Reasons"),
    "patient_safety": Code("113037", "Rejected for Patient Safety Reasons"),
    "wrong_worklist": Code("113038", "Incorrect Modality Worklist Entry"),
    "retention_expired": Code("113039", "Data Retention Policy Expired"),
}
RETURNING = ("retention_expired",)
"""Reasons after which a resend brings an instance back, as it does after a deletion: nothing was wrong with it."""


@dataclass(frozen=True, slots=True)
class RejectionPolicy:
    """What the settings say about hidden instances."""

    grace_days: float | None = 30.0  # after which they are purged; None: never
    accept_from: tuple[str, ...] = ()  # calling AE titles whose notes are applied; (): everybody's

    @property
    def grace(self) -> dt.timedelta | None:
        """How long what was hidden can be restored; None: for ever."""
        return None if self.grace_days is None else dt.timedelta(days=self.grace_days)


DEFAULT_POLICY = RejectionPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """A study, a series of it, or instances of it."""

    study_uid: str
    series_uid: str | None = None
    sop_uids: tuple[str, ...] = ()

    @property
    def level(self) -> str:
        """What is named: study, series or instance."""
        return "instance" if self.sop_uids else "series" if self.series_uid else "study"


_SCOPE = """
SELECT i.instance_pk, i.sop_uid, i.study_fk FROM studies AS s JOIN series AS e ON e.study_fk = s.study_pk
JOIN instances AS i ON i.series_fk = e.series_pk
WHERE s.study_uid = %(study)s AND (%(series)s::text IS NULL OR e.series_uid = %(series)s)
    AND (%(sops)s::text[] IS NULL OR i.sop_uid = ANY(%(sops)s)) AND i.hidden = %(hidden)s
ORDER BY i.instance_pk"""


def remove(
    connection: Connection,
    kind: Literal["delete", "reject"],
    scope: Scope,
    by: By,
    *,
    grace: dt.timedelta | None,
    note_uid: str = "",
) -> Change:
    """Hide what is visible in the scope, inside `changes.write`.

    Args:
        connection: in a transaction of `changes.write`.
        kind: 'delete', or 'reject' with one of `REASONS` as the reason.
        scope: what; all instances that are named must be there.
        by: who, and why.
        grace: how long it can be restored; None: it is never purged.
        note_uid: SOP Instance UID of the rejection note that is to be made of it.

    Raises:
        NotFound: nothing visible is there.
        InvalidInput: an unknown reason for a rejection.
    """
    if kind == "reject" and by.reason not in REASONS:
        raise InvalidInput(f"A rejection has one of these reasons: {', '.join(REASONS)}.")
    found = _in_scope(connection, scope, hidden=False)
    missing = set(scope.sop_uids) - {uid for _, uid, _ in found}
    if not found or missing:
        raise NotFound(f"There is no such visible {scope.level} in study {scope.study_uid}.")
    detail = {"level": scope.level, "series_uid": scope.series_uid or "", "instances": len(found)}
    if scope.sop_uids:
        detail["sop_uids"] = sorted(scope.sop_uids)
    change = changes.record(
        connection, kind, by, [scope.study_uid], detail=detail, note_uid=note_uid, purge_after=_later(grace)
    )
    _refer(connection, change.change_pk, [uid for _, uid, _ in found])
    if note_uid:
        connection.execute(
            "INSERT INTO rejection_notes (sop_uid, state, change_fk) VALUES (%s, 'due', %s)",
            (note_uid, change.change_pk),
        )
    hide(connection, [pk for pk, _, _ in found])
    changes.settle(connection, [study for _, _, study in found])
    return change


def reject(
    connection: Connection,
    sop_uids: Sequence[str],
    by: By,
    *,
    note_uid: str,
    note_study_uid: str,
    grace: dt.timedelta | None,
) -> Change:
    """Hide instances by their UIDs, wherever they are, those that are not here yet as well: what a note asks for."""
    found = connection.execute(
        "SELECT instance_pk, sop_uid, study_fk, hidden, (SELECT study_uid FROM studies WHERE study_pk = study_fk)"
        " FROM instances WHERE sop_uid = ANY(%s) ORDER BY instance_pk",
        (list(sop_uids),),
    ).fetchall()
    study_uids = {study_uid for *_, study_uid in found} | {note_study_uid}
    detail = {"level": "instance", "instances": len(sop_uids), "present": len(found)}
    change = changes.record(
        connection, "reject", by, sorted(study_uids), detail=detail, note_uid=note_uid, purge_after=_later(grace)
    )
    _refer(connection, change.change_pk, sop_uids)
    hide(connection, [pk for pk, _, _, hidden, _ in found if not hidden])
    changes.settle(connection, [study for _, _, study, _, _ in found])
    return change


def hide(connection: Connection, instance_pks: Sequence[int]) -> None:
    """Set the flag and take waiting jobs away; the caller settles the studies."""
    keys = _locked(connection, instance_pks)
    connection.execute("UPDATE instances SET hidden = true WHERE instance_pk = ANY(%s)", (keys,))
    connection.execute(  # a job that somebody works on is finished: its score is kept and not shown
        "DELETE FROM jobs WHERE job_pk = ANY(ARRAY(SELECT job_pk FROM jobs WHERE instance_fk = ANY(%s)"
        " AND state = 'waiting' FOR UPDATE SKIP LOCKED))",
        (keys,),
    )


def hide_note(connection: Connection, sop_uid: str, change_pk: int) -> None:
    """A rejection note that was applied stays stored and is not shown; it goes where the rejected instances went.

    A study that was read stays read: a note is nothing to look at.
    """
    connection.execute(
        "UPDATE rejection_notes SET state = 'applied', change_fk = %s WHERE sop_uid = %s", (change_pk, sop_uid)
    )
    found = connection.execute(
        "UPDATE instances SET hidden = true WHERE sop_uid = %s RETURNING study_fk, instance_pk, source_aet", (sop_uid,)
    ).fetchone()
    if found is None:
        return
    connection.execute(
        "INSERT INTO forwarding_queue (destination_fk, instance_fk, urgency, run_after)"
        " SELECT q.destination_fk, %s, max(q.urgency), now() FROM removed_instances AS r"
        " JOIN instances AS i ON i.sop_uid = r.sop_uid JOIN forwarding_queue AS q ON q.instance_fk = i.instance_pk"
        " JOIN forwarding_destinations AS d ON d.destination_pk = q.destination_fk"
        " LEFT JOIN peers AS p ON p.name = d.peer"
        " WHERE r.change_fk = %s AND q.state <> 'cancelled' AND p.aet IS DISTINCT FROM %s"
        " GROUP BY q.destination_fk ON CONFLICT DO NOTHING",
        (found[1], change_pk, found[2]),
    )
    connection.execute(
        "UPDATE worklist SET state = 'read' WHERE study_fk = %(study)s AND state = 'open' AND read_at IS NOT NULL"
        " AND NOT EXISTS (SELECT FROM series JOIN instances ON series_fk = series_pk WHERE series.study_fk = %(study)s"
        " AND NOT instances.hidden AND received_at > worklist.read_at)",
        {"study": found[0]},
    )
    changes.settle(connection, [found[0]])


def restore(connection: Connection, scope: Scope, by: By) -> Change:
    """Show again what is hidden in the scope, whyever it was, inside `changes.write`. Raises `NotFound`."""
    found = _in_scope(connection, scope, hidden=True)
    shown = _release(connection, [uid for _, uid, _ in found])
    if not shown:
        raise NotFound(f"Nothing that can be restored is hidden in this {scope.level} of study {scope.study_uid}.")
    detail = {"level": scope.level, "series_uid": scope.series_uid or "", "instances": len(shown)}
    change = changes.record(connection, "restore", by, [scope.study_uid], detail=detail)
    changes.settle(connection, [study for _, _, study in found])
    return change


def restore_change(connection: Connection, change_pk: int, by: By) -> Change:
    """Take one deletion or rejection back; what another one hides stays hidden.

    Raises:
        NotFound: there is no such change.
        Conflict: it hides nothing (any more), or was purged.
    """
    removal = changes.get(connection, change_pk)
    if removal.kind not in ("delete", "reject"):
        raise Conflict(f"Change {change_pk} hides nothing: it is undone, not restored.")
    if removal.purged_at is not None:
        raise Conflict(f"The grace time of change {change_pk} is over: its objects are gone.")
    uids = [
        uid for (uid,) in connection.execute("SELECT sop_uid FROM removed_instances WHERE change_fk = %s", (change_pk,))
    ]
    if not uids:
        raise Conflict(f"Change {change_pk} was restored already.")
    shown = _release(connection, uids, change_pk)
    studies = connection.execute(
        "SELECT DISTINCT study_pk, study_uid FROM instances JOIN studies ON study_pk = study_fk"
        " WHERE instance_pk = ANY(%s)",
        (shown,),
    ).fetchall()
    change = changes.record(
        connection, "restore", by, [*removal.study_uids, *(uid for _, uid in studies)],
        detail={"change": change_pk, "instances": len(shown)},
    )  # fmt: skip
    changes.settle(connection, [pk for pk, _ in studies])
    return change


def resent(connection: Connection, sop_uids: Sequence[str], actor: str) -> list[str]:
    """What happens when hidden instances come again with the same bytes: those that were deleted, or whose retention
    had expired, are shown again; other rejections stand. Within a transaction; UIDs of those that are shown.
    """
    changes.begin(connection)
    wanted = connection.execute(
        "SELECT sop_uid, study_fk, (SELECT study_uid FROM studies WHERE study_pk = study_fk) FROM instances AS i"
        " WHERE sop_uid = ANY(%s) AND hidden"
        " AND EXISTS (SELECT FROM removed_instances AS r WHERE r.sop_uid = i.sop_uid)"
        " AND NOT EXISTS (SELECT FROM removed_instances AS r JOIN changes ON change_pk = r.change_fk"
        " WHERE r.sop_uid = i.sop_uid AND kind = 'reject' AND reason <> ALL(%s)) ORDER BY sop_uid",
        (list(sop_uids), list(RETURNING)),
    ).fetchall()
    _release(connection, [uid for uid, _, _ in wanted])
    changes.settle(connection, [study for _, study, _ in wanted])
    for uid, _, study_uid in wanted:
        audit.add(connection, actor, "instance.resent", study_uid, {"sop_uid": uid})
    return [uid for uid, _, _ in wanted]


def _in_scope(connection: Connection, scope: Scope, *, hidden: bool) -> list[tuple[int, str, int]]:
    values = {
        "study": scope.study_uid,
        "series": scope.series_uid,
        "sops": list(scope.sop_uids) or None,
        "hidden": hidden,
    }
    return connection.execute(_SCOPE, values).fetchall()


def _refer(connection: Connection, change_pk: int, sop_uids: Sequence[str]) -> None:
    connection.execute(
        "INSERT INTO removed_instances (sop_uid, change_fk) SELECT DISTINCT unnest(%s::text[]), %s",
        (list(sop_uids), change_pk),
    )


def _release(connection: Connection, sop_uids: Sequence[str], change_pk: int | None = None) -> list[int]:
    """Take away what hides these instances (what this change hides); keys of those that nothing hides any more."""
    released = connection.execute(
        "DELETE FROM removed_instances WHERE sop_uid = ANY(%s) AND (%s::bigint IS NULL OR change_fk = %s)"
        " RETURNING sop_uid, change_fk",
        (list(sop_uids), change_pk, change_pk),
    ).fetchall()
    found = connection.execute(
        "SELECT instance_pk FROM instances AS i WHERE sop_uid = ANY(%s) AND hidden"
        " AND NOT EXISTS (SELECT FROM removed_instances AS r WHERE r.sop_uid = i.sop_uid)",
        ([uid for uid, _ in released],),
    ).fetchall()
    keys = _locked(connection, [pk for (pk,) in found])
    connection.execute("UPDATE instances SET hidden = false WHERE instance_pk = ANY(%s)", (keys,))
    connection.execute(
        "INSERT INTO jobs (instance_fk, urgency) SELECT instance_pk, urgency FROM instances AS i"
        " WHERE instance_pk = ANY(%s) AND triage = 'waiting'"
        " AND NOT EXISTS (SELECT FROM jobs WHERE instance_fk = i.instance_pk)",
        (keys,),
    )
    connection.execute(
        "UPDATE changes SET restored_at = clock_timestamp() WHERE change_pk = ANY(%s)"
        " AND NOT EXISTS (SELECT FROM removed_instances WHERE change_fk = change_pk)",
        (sorted({change for _, change in released}),),
    )
    return keys


def _locked(connection: Connection, instance_pks: Sequence[int]) -> list[int]:
    """The rows locked in the order of their keys, as workers lock them."""
    found = connection.execute(
        "SELECT instance_pk FROM instances WHERE instance_pk = ANY(%s) ORDER BY instance_pk FOR NO KEY UPDATE",
        (list(instance_pks),),
    ).fetchall()
    return [pk for (pk,) in found]


def _later(grace: dt.timedelta | None) -> dt.datetime | None:
    return None if grace is None else dt.datetime.now(dt.UTC) + grace
