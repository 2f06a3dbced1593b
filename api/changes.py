"""Changes of what is stored: delete, reject, restore, correct, merge, split, undo; each with a reason and a history.

Every change can be tried first (`dry_run`): it is made and rolled back, and the answer says what it would have done.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from api.context import Actor, Before, Context, Here, Limit
from api.problems import responses
from storage import changes, editing, moving, removal, undoing
from storage.changes import By
from storage.database import Connection
from storage.editing import PatientKey
from storage.removal import Reason, Scope

__all__ = ["router"]

router = APIRouter(prefix="/api/changes", tags=["changes"])

_UID = r"^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*$"
_MAX_UIDS = 10_000
Uid = Annotated[str, Field(pattern=_UID, max_length=64)]
Words = Annotated[str, Field(max_length=1000, pattern=r"^[^\u0000]*$")]
Required = Annotated[str, Field(min_length=1, max_length=1000, pattern=r"^[^\u0000]*[^\u0000\s][^\u0000]*$")]
Values = Annotated[
    dict[str, Annotated[str, Field(max_length=1024)]],
    Field(
        max_length=64,
        description="DICOM keywords with their values as text, such as PatientName: Nguyễn^Văn An, StudyDate: 20260102;"
        " '' empties an attribute",
    ),
]
Number = Annotated[int, Path(ge=1, le=2**63 - 1, description="`number` of the change")]
_PROBLEMS = responses(400, 401, 403, 404, 409, 413, 422, 503)


class _Asked(BaseModel):
    """What every change says."""

    model_config = ConfigDict(extra="forbid")

    reason: Required = Field(description="why, in a person's words; it stays in the history")
    comment: Words = ""
    dry_run: bool = Field(default=False, description="only say what would happen")


class _Scoped(_Asked):
    study_uid: Uid
    series_uid: Uid | None = None
    sop_uids: Annotated[list[Uid], Field(max_length=_MAX_UIDS, description="some instances; empty: all")] = []

    def scope(self) -> Scope:
        return Scope(study_uid=self.study_uid, series_uid=self.series_uid, sop_uids=tuple(self.sop_uids))


class Delete(_Scoped):
    """A study, a series of it, or instances of it."""


class Reject(_Scoped):
    """As a deletion, for a reason that other archives learn by a rejection note (IHE IOCM)."""

    reason: Reason


class Restore(_Asked):
    """What is hidden in a scope, or what one change hid."""

    change: Annotated[int, Field(ge=1, le=2**63 - 1)] | None = Field(
        default=None, description="a deletion or rejection"
    )
    study_uid: Uid | None = None
    series_uid: Uid | None = None
    sop_uids: Annotated[list[Uid], Field(max_length=_MAX_UIDS)] = []


class Patient(BaseModel):
    """How a patient is known."""

    model_config = ConfigDict(extra="forbid")

    patient_id: Annotated[str, Field(min_length=1, max_length=64)]
    issuer: Annotated[str, Field(max_length=64)] = ""

    def key(self) -> PatientKey:
        """The key of the index; raises `InvalidInput`."""
        return PatientKey(self.patient_id, self.issuer)


class UpdatePatient(_Asked):
    """New values for a patient and all its studies."""

    patient: Patient
    attributes: Values


class UpdateStudy(_Asked):
    """New values for a study."""

    study_uid: Uid
    attributes: Values


class UpdateSeries(UpdateStudy):
    """New values for a series."""

    series_uid: Uid


class MergePatients(_Asked):
    """All studies of one patient go to another, now and later."""

    patient: Patient
    into: Patient
    attributes: Values | None = Field(default=None, description="of a patient that is not known yet; {} makes one")


class MoveStudy(_Asked):
    """A study goes to the patient that it belongs to."""

    study_uid: Uid
    into: Patient
    attributes: Values | None = Field(default=None, description="of a patient that is not known yet; {} makes one")


class MergeStudies(_Asked):
    """All series of one study go to another, now and later."""

    study_uid: Uid
    into: Uid


class Split(_Scoped):
    """A series, or instances, go to another study or a new one."""

    into: Uid | None = Field(default=None, description="null: a new study of the same patient")


class Undo(_Asked):
    """Take a change back."""


class Change(BaseModel):
    """One change: who, when, why, before and after."""

    model_config = ConfigDict(from_attributes=True)

    number: int | None = Field(validation_alias="change_pk", description="null after a dry run")
    at: dt.datetime
    actor: str
    kind: changes.Kind
    reason: str
    comment: str
    study_uids: list[str]
    detail: dict[str, Any]
    before: dict[str, dict[str, dict[str, Any]]] = Field(description="columns that changed, by table and key")
    after: dict[str, dict[str, dict[str, Any]]]
    note_uid: str = Field(description="SOP Instance UID of the rejection note")
    purge_after: dt.datetime | None = Field(description="restore is possible until then; null: always, or never hidden")
    restored_at: dt.datetime | None
    purged_at: dt.datetime | None
    undone_by: int | None


class History(BaseModel):
    """Changes, the newest first."""

    items: list[Change]
    next: int | None = Field(description="`before` of the page after this one")


def _made(here: Context, asked: _Asked, actor: str, change: Callable[[Connection, By], changes.Change]) -> Change:
    by = By(actor=actor, reason=asked.reason, comment=asked.comment)
    made = Change.model_validate(changes.write(here.database, lambda c: change(c, by), dry_run=asked.dry_run))
    return made.model_copy(update={"number": None}) if asked.dry_run else made


@router.get("", responses=responses(401, 422, 503))
def history(
    *,
    here: Here,
    _: Actor,
    study_uid: Annotated[str | None, Query(pattern=_UID, max_length=64)] = None,
    before: Before = None,
    limit: Limit = 50,
) -> History:
    """Changes, the newest first; those of one study if it is given."""
    with here.database.autocommit() as connection:
        found = changes.page(connection, study_uid=study_uid or "", before=before, limit=limit + 1)
    items = [Change.model_validate(one) for one in found[:limit]]
    return History(items=items, next=found[limit - 1].change_pk if len(found) > limit else None)


@router.get("/{number}", responses=responses(401, 404, 422, 503))
def change(here: Here, _: Actor, number: Number) -> Change:
    """One change."""
    with here.database.autocommit() as connection:
        return Change.model_validate(changes.get(connection, number))


@router.post("/delete", responses=_PROBLEMS)
def delete(here: Here, actor: Actor, body: Delete) -> Change:
    """Hide it everywhere; it can be restored within the grace time, then it is purged. A resend shows it again."""
    grace = here.config.rejection.grace
    return _made(here, body, actor, lambda c, by: removal.remove(c, "delete", body.scope(), by, grace=grace))


@router.post("/reject", responses=_PROBLEMS)
def reject(here: Here, actor: Actor, body: Reject) -> Change:
    """Hide it everywhere and write a rejection note. A resend stays hidden, unless the retention time had expired."""
    grace, note_uid = here.config.rejection.grace, f"2.25.{uuid.uuid4().int}"
    return _made(
        here,
        body,
        actor,
        lambda c, by: removal.remove(c, "reject", body.scope(), by, grace=grace, note_uid=note_uid),
    )


@router.post("/restore", responses=_PROBLEMS)
def restore(here: Here, actor: Actor, body: Restore) -> Change:
    """Show again what one change hid, or all that is hidden in a study, series or among instances."""
    if (body.change is None) == (body.study_uid is None):
        raise HTTPException(400, "name either a change or a study")
    number, study_uid = body.change, body.study_uid
    if number is not None:
        return _made(here, body, actor, lambda c, by: removal.restore_change(c, number, by))
    scope = Scope(study_uid=study_uid or "", series_uid=body.series_uid, sop_uids=tuple(body.sop_uids))
    return _made(here, body, actor, lambda c, by: removal.restore(c, scope, by))


@router.post("/update-patient", responses=_PROBLEMS)
def update_patient(here: Here, actor: Actor, body: UpdatePatient) -> Change:
    """Correct a patient in all studies. Another Patient ID: what comes later under the old one follows."""
    key = body.patient.key()
    return _made(here, body, actor, lambda c, by: editing.update_patient(c, key, body.attributes, by))


@router.post("/update-study", responses=_PROBLEMS)
def update_study(here: Here, actor: Actor, body: UpdateStudy) -> Change:
    """Correct a study: its own attributes, and those of its patient where this study alone has them wrong."""
    return _made(here, body, actor, lambda c, by: editing.update_study(c, body.study_uid, body.attributes, by))


@router.post("/update-series", responses=_PROBLEMS)
def update_series(here: Here, actor: Actor, body: UpdateSeries) -> Change:
    """Correct a series."""
    return _made(
        here,
        body,
        actor,
        lambda c, by: editing.update_series(c, body.study_uid, body.series_uid, body.attributes, by),
    )


@router.post("/merge-patients", responses=_PROBLEMS)
def merge_patients(here: Here, actor: Actor, body: MergePatients) -> Change:
    """One patient turned out to be another: all studies get the other's attributes, also those that come later."""
    old, into = body.patient.key(), body.into.key()
    return _made(here, body, actor, lambda c, by: editing.merge_patients(c, old, into, by, new=body.attributes))


@router.post("/move-study", responses=_PROBLEMS)
def move_study(here: Here, actor: Actor, body: MoveStudy) -> Change:
    """A study was made under the wrong patient: it gets the other patient's attributes."""
    into = body.into.key()
    return _made(here, body, actor, lambda c, by: editing.move_study(c, body.study_uid, into, by, new=body.attributes))


@router.post("/merge-studies", responses=_PROBLEMS)
def merge_studies(here: Here, actor: Actor, body: MergeStudies) -> Change:
    """Two studies are one: all series go to the other, also those that come later."""
    return _made(here, body, actor, lambda c, by: moving.merge_studies(c, body.study_uid, body.into, by))


@router.post("/split", responses=_PROBLEMS)
def split(here: Here, actor: Actor, body: Split) -> Change:
    """A series, or instances, belong to another study: the one that is named, or a new one."""
    return _made(here, body, actor, lambda c, by: moving.split(c, body.scope(), body.into, by))


@router.post("/{number}/undo", responses=_PROBLEMS)
def undo(here: Here, actor: Actor, number: Number, body: Undo) -> Change:
    """Take back the last change of a study; 409 says which change is later, or why there is no way back."""
    return _made(here, body, actor, lambda c, by: undoing.undo(c, number, by))
