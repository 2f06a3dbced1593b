"""Taking the last change of a study back: values as they were before, series where they were before."""

from __future__ import annotations

from storage import changes, editing, moving, removal, rows
from storage.changes import By, Change
from storage.database import Connection
from storage.errors import Conflict

__all__ = ["undo"]


def undo(connection: Connection, change_pk: int, by: By) -> Change:
    """Undo a change inside `changes.write`; a deletion or rejection is restored.

    Raises:
        NotFound: there is no such change, or a study of it is gone.
        Conflict: it cannot be undone, was undone, or later changes of its studies still stand.
    """
    change = changes.get(connection, change_pk)
    if change.kind in ("delete", "reject"):
        return removal.restore_change(connection, change_pk, by)
    if change.kind in ("restore", "undo") or change.undone_by is not None:
        raise Conflict(f"Change {change_pk} cannot be undone (again): make the change itself once more.")
    adopted = _adopted(connection, change)
    _check_last(connection, change, [row["study_uid"] for row in adopted])
    if change.kind in ("split", "merge_studies"):
        study_pks = moving.bring_back(connection, change.detail)
    else:
        study_pks = _restore_values(connection, change, adopted)
    rows.derive(connection, study_pks)
    changes.settle(connection, study_pks)
    undone = changes.record(
        connection, "undo", by, [*change.study_uids, *(row["study_uid"] for row in adopted)],
        detail={"change": change_pk, "kind": change.kind}, before=change.after, after=change.before,
    )  # fmt: skip
    connection.execute("UPDATE changes SET undone_by = %s WHERE change_pk = %s", (undone.change_pk, change_pk))
    return undone


def _check_last(connection: Connection, change: Change, adopted: list[str]) -> None:
    found = connection.execute(
        "SELECT max(change_pk) FROM changes JOIN changed_studies ON change_fk = change_pk"
        " WHERE study_uid = ANY(%s) AND change_pk > %s AND undone_by IS NULL"
        " AND kind NOT IN ('delete', 'reject', 'restore', 'undo')",
        ([*change.study_uids, *adopted], change.change_pk),
    ).fetchone()
    if found is not None and found[0] is not None:
        raise Conflict(f"Change {found[0]} is later: undo it first.")


def _adopted(connection: Connection, change: Change) -> list[rows.Row]:
    """Studies that came after a merge of patients, under the Patient ID that was merged away."""
    if change.kind not in ("merge_patients", "update_patient") or "into" not in change.detail:
        return []
    keys = [change.detail["patient"], *change.detail["forwarded"]]
    return [
        row
        for row in rows.studies_by(connection, "p.patient_key = %s", change.detail["into"])
        if row["as_sent"] is not None and row["as_sent"]["patient_key"] in keys
    ]


def _restore_values(connection: Connection, change: Change, adopted: list[rows.Row]) -> list[int]:
    study_pks = []
    if "forwarded" in change.detail:
        _take_back(connection, change.detail["patient"], change.detail["forwarded"])
    for key, values in change.before.get("patients", {}).items():
        rows.write_patient(connection, (rows.patient(connection, key) or {}) | values)
    for uid, values in change.before.get("studies", {}).items():
        row = rows.study(connection, uid)
        rows.write_study(connection, row["study_pk"], values)
        study_pks.append(row["study_pk"])
    for row in adopted:
        rows.write_study(connection, row["study_pk"], row["as_sent"] | {"as_sent": None})
        study_pks.append(row["study_pk"])
    editing.adopt(connection, [row["study_uid"] for row in adopted])  # an earlier merge may still stand
    for key, values in change.before.get("series", {}).items():
        study_uid, _, series_uid = key.partition("/")
        above = rows.study(connection, study_uid)
        for below in rows.series_row(connection, above["study_pk"], series_uid):
            rows.write_series(connection, below["series_pk"], values)
        study_pks.append(above["study_pk"])
    return study_pks


def _take_back(connection: Connection, patient_key: str, forwarded: list[str]) -> None:
    """A Patient ID that was merged away is one of its own again, with those that had been merged into it."""
    connection.execute("UPDATE patients SET merged_into = NULL WHERE patient_key = %s", (patient_key,))
    connection.execute(
        "UPDATE patients SET merged_into = (SELECT patient_pk FROM patients WHERE patient_key = %s)"
        " WHERE patient_key = ANY(%s)",
        (patient_key, forwarded),
    )
