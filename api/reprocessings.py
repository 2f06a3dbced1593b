"""Models over what is stored already: how far they are. They are begun and ended by `sangloc reprocess`."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from api.context import Actor, Here, Limit
from api.problems import responses
from storage import reprocessing

__all__ = ["router"]

router = APIRouter(prefix="/api/reprocessings", tags=["jobs"])


class Reprocessing(BaseModel):
    """One model over the archive, or over a part of it (`selection`)."""

    model_config = ConfigDict(from_attributes=True, protected_namespaces=())

    reprocessing_pk: int
    state: Literal["running", "paused", "done", "cancelled"]
    problem: str
    model_name: str
    model_version: str
    weights_sha256: str
    shadow: bool
    selection: dict[str, Any]
    images_per_s: float | None
    when_idle: bool
    total: int
    scored: int
    refused: int
    failed: int
    pace: float
    left_s: float | None
    started_by: str
    started_at: dt.datetime
    changed_at: dt.datetime
    ended_at: dt.datetime | None


class Reprocessings(BaseModel):
    """The latest ones, newest first."""

    items: list[Reprocessing]


@router.get("", responses=responses(401, 422, 503))
def latest(here: Here, _: Actor, limit: Limit = 20) -> Reprocessings:
    """How far the latest reprocessings are: images done and to do, images a second lately, seconds left."""
    with here.database.autocommit() as connection:
        found = reprocessing.all_of_them(connection, limit)
    return Reprocessings(items=[Reprocessing.model_validate(one) for one in found])
