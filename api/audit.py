"""Who did what, newest first."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from api.context import Actor, Before, Here, Limit
from api.problems import responses
from storage import audit

__all__ = ["router"]

router = APIRouter(prefix="/api", tags=["audit"])


class Entry(BaseModel):
    """One thing that a person, a sender or a model did."""

    model_config = ConfigDict(from_attributes=True)

    at: dt.datetime
    actor: str
    action: str
    study_uid: str
    detail: dict[str, Any]


class Entries(BaseModel):
    """A page of the audit log; `next` asks for the one before it in time."""

    items: list[Entry]
    next: int | None


@router.get("/audit", responses=responses(401, 422, 503))
def read(
    here: Here,
    _: Actor,
    study_uid: Annotated[str, Query(max_length=64, pattern=r"^[0-9.]*$")] = "",
    cursor: Before = None,
    limit: Limit = 100,
) -> Entries:
    """The audit log, newest first, of one study if `study_uid` is given."""
    with here.database.autocommit() as connection:
        found = audit.page(connection, study_uid=study_uid, before=cursor, limit=limit)
    last = found[-1].audit_pk if len(found) == limit else None
    return Entries(items=[Entry.model_validate(one) for one in found], next=last)
