"""Rejection notes that come in: key object documents that take instances out of use (IHE RAD TF-1 29, RAD-66; IOCM).

The transaction that makes such a document visible also notes that it is to be looked into (`rejection_notes`), so an
acknowledged note takes effect whatever is killed when: the receiver applies it before it answers, and what it could not
apply any more is found by the exchange process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import structlog
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from storage import audit, changes, removal
from storage.changes import By
from storage.database import Connection, Database
from storage.errors import InvalidUID, NotFound, SanglocError
from storage.objects import ObjectStore
from storage.removal import RejectionPolicy
from storage.uid import InstanceUID

__all__ = ["Note", "apply", "apply_waiting", "read_note"]

log = structlog.get_logger()

_TITLE, _EVIDENCE = "ConceptNameCodeSequence", "CurrentRequestedProcedureEvidenceSequence"
_SOP_UID, _CODE, _SCHEME = 0x00081155, 0x00080100, 0x00080102
_MAX_NOTE_BYTES = 16 << 20  # some 100,000 references
_REASONS = {code.value: reason for reason, code in removal.REASONS.items()}


@dataclass(frozen=True, slots=True)
class Note:
    """What a rejection note says."""

    reason: str  # of removal.REASONS
    sop_uids: tuple[str, ...]


def read_note(file: BinaryIO) -> Note | None:
    """The note in a key object document; None where its title is not that of a rejection.

    Raises: `InvalidDicomError`, and what pydicom raises for data that is broken.
    """
    document = dcmread(file, force=True, specific_tags=[_TITLE, _EVIDENCE])
    title = next(iter(document.get(_TITLE) or []), None)
    if title is None or _text(title, _SCHEME) != "DCM" or _text(title, _CODE) not in _REASONS:
        return None
    return Note(_REASONS[_text(title, _CODE)], tuple(dict.fromkeys(_references(document))))


def _references(document: Dataset) -> Iterator[str]:
    """SOP Instance UIDs of Current Requested Procedure Evidence Sequence (PS3.3 C.17.6.2)."""
    for study in document.get(_EVIDENCE) or []:
        for series in study.get("ReferencedSeriesSequence") or []:
            for instance in series.get("ReferencedSOPSequence") or []:
                try:
                    yield str(InstanceUID(_text(instance, _SOP_UID)))
                except InvalidUID:
                    log.warning("rejection note refers to an invalid uid")


def _text(item: Dataset, tag: int) -> str:
    """The value as it is written: pydicom's conversion would warn of what is invalid, and quote it."""
    value = item.get_item(tag).value if tag in item else b""
    return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else str(value or "")


def apply(database: Database, store: ObjectStore, sop_uid: str, policy: RejectionPolicy) -> None:
    """Look into a key object document that was just indexed, and do what it asks. Safe to repeat.

    Raises: `Unavailable`; then it is done later.
    """
    with database.autocommit() as connection:
        found = connection.execute(
            "SELECT object_key, object_size, source_aet, (SELECT study_uid FROM studies WHERE study_pk = study_fk)"
            " FROM instances JOIN rejection_notes USING (sop_uid) WHERE sop_uid = %s AND state IN ('waiting', 'due')",
            (sop_uid,),
        ).fetchone()
    if found is None:
        return
    object_key, object_size, source_aet, study_uid = found
    note, problem = _read(store, object_key, object_size)
    if note is not None and policy.accept_from and source_aet not in policy.accept_from:
        note, problem = None, "Rejection notes of this sender are not applied."
    changes.write(database, lambda c: _apply(c, sop_uid, study_uid, _Found(note, problem, source_aet), policy))


def apply_waiting(database: Database, store: ObjectStore, policy: RejectionPolicy) -> int:
    """Apply what receivers did not get round to; how many were looked into. Raises `Unavailable`."""
    with database.autocommit() as connection:
        waiting = connection.execute(
            "SELECT sop_uid FROM rejection_notes WHERE state = 'waiting' ORDER BY noted_at"
        ).fetchall()
    for (sop_uid,) in waiting:
        apply(database, store, sop_uid, policy)
    return len(waiting)


@dataclass(frozen=True, slots=True)
class _Found:
    note: Note | None
    problem: str
    source_aet: str


def _read(store: ObjectStore, object_key: str, object_size: int) -> tuple[Note | None, str]:
    if object_size > _MAX_NOTE_BYTES:
        return None, f"The document is larger than {_MAX_NOTE_BYTES} bytes."
    try:
        with store.open(object_key) as file:
            note = read_note(file)
    except NotFound:
        return None, "The object is missing."
    except SanglocError:
        raise
    except (InvalidDicomError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError, OSError) as error:
        return None, f"The document cannot be read: {type(error).__name__}."
    if note is not None and not note.sop_uids:
        return None, "The rejection note refers to nothing."
    return note, ""


def _apply(connection: Connection, sop_uid: str, study_uid: str, found: _Found, policy: RejectionPolicy) -> None:
    waiting = connection.execute(
        "SELECT (SELECT change_pk FROM changes WHERE note_uid = sop_uid) FROM rejection_notes"
        " WHERE sop_uid = %s AND state IN ('waiting', 'due') FOR UPDATE",
        (sop_uid,),
    ).fetchone()
    if waiting is None:
        return  # another process was faster
    if found.note is None:
        _settle_without(connection, sop_uid, study_uid, found)
        return
    change_pk = waiting[0]  # ours: it was applied before it was written
    if change_pk is None:
        by = By(actor=found.source_aet or "unknown", reason=found.note.reason)
        uids = [uid for uid in found.note.sop_uids if uid != sop_uid]
        change = removal.reject(connection, uids, by, note_uid=sop_uid, note_study_uid=study_uid, grace=policy.grace)
        change_pk = change.change_pk
        log.info("rejection note applied", sop_uid=sop_uid, reason=by.reason, instances=len(uids))
    removal.hide_note(connection, sop_uid, change_pk)


def _settle_without(connection: Connection, sop_uid: str, study_uid: str, found: _Found) -> None:
    if not found.problem:  # a key object document like any other
        connection.execute("DELETE FROM rejection_notes WHERE sop_uid = %s", (sop_uid,))
        return
    connection.execute(
        "UPDATE rejection_notes SET state = 'refused', error = %s WHERE sop_uid = %s", (found.problem, sop_uid)
    )
    audit.add(
        connection, found.source_aet, "rejection.refused", study_uid, {"sop_uid": sop_uid, "reason": found.problem}
    )
    log.warning("rejection note not applied", sop_uid=sop_uid, reason=found.problem)
