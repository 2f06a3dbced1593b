"""What came in and is not served: other bytes under a known UID, and data that could not be indexed."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel

from api.context import Actor, Before, Here, Limit
from api.files import DICOM, object_response
from api.problems import responses
from storage import set_aside

__all__ = ["router"]

router = APIRouter(prefix="/api", tags=["set aside"])
Number = Annotated[int, Path(ge=1, le=2**63 - 1, description="`number` of the entry")]


class Kept(BaseModel):
    """One object that is kept for a person to look at; `sha256` is of its data set."""

    number: int
    kind: Literal["conflict", "invalid"]
    reason: str
    sop_uid: str
    object_size: int
    sha256: str
    source_aet: str
    source_address: str
    received_at: dt.datetime
    resolved_at: dt.datetime | None


class KeptPage(BaseModel):
    """A page, newest first."""

    items: list[Kept]
    next: int | None


def _page(here: Here, kind: set_aside.Kind | None, resolved: bool, cursor: int | None, limit: int) -> KeptPage:
    with here.database.autocommit() as connection:
        found = set_aside.page(connection, kind, resolved=resolved, before=cursor, limit=limit)
    last = found[-1].set_aside_pk if len(found) == limit else None
    return KeptPage(items=[_kept(one) for one in found], next=last)


def _kept(one: set_aside.SetAside) -> Kept:
    return Kept(
        number=one.set_aside_pk,
        kind=one.kind,
        reason=one.reason,
        sop_uid=one.sop_uid,
        object_size=one.object_size,
        sha256=one.sha256.hex(),
        source_aet=one.source_aet,
        source_address=one.source_address,
        received_at=one.received_at,
        resolved_at=one.resolved_at,
    )


@router.get("/set-aside", responses=responses(401, 422, 503))
def everything(
    here: Here,
    _: Actor,
    kind: Literal["conflict", "invalid"] | None = None,
    resolved: bool = False,
    cursor: Before = None,
    limit: Limit = 50,
) -> KeptPage:
    """Everything that is set aside."""
    return _page(here, kind, resolved, cursor, limit)


@router.get("/conflicts", responses=responses(401, 422, 503))
def conflicts(here: Here, _: Actor, resolved: bool = False, cursor: Before = None, limit: Limit = 50) -> KeptPage:
    """Instances that came a second time under the same UID with other content; the first is the one that is served."""
    return _page(here, "conflict", resolved, cursor, limit)


@router.get(
    "/set-aside/{number}/file",
    response_class=Response,
    responses={200: {"description": "The bytes as they came", "content": {DICOM: {}}}, **responses(401, 404, 422, 503)},
)
def file(here: Here, _: Actor, number: Number) -> Response:
    """The kept object; what is invalid may not be readable as DICOM."""
    with here.database.autocommit() as connection:
        kept = set_aside.get(connection, number)
    name = f"set-aside-{number}"
    return object_response(here.store, kept.object_key, size=kept.object_size, digest=kept.sha256.hex(), name=name)


@router.post("/set-aside/{number}/resolve", responses=responses(401, 403, 404, 422, 503))
def resolve(here: Here, actor: Actor, number: Number) -> Kept:
    """Note that a person has dealt with it; the object stays."""
    with here.database.transaction() as connection:
        set_aside.resolve(connection, number, actor)
        return _kept(set_aside.get(connection, number))
