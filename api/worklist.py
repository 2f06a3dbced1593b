"""The worklist: studies in the order in which they are due, live."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from api.context import Actor, Cursor, Here, Limit, Text, UidPath
from api.findings import Finding
from api.problems import responses
from storage import worklist

__all__ = ["Item", "Worklist", "router"]

router = APIRouter(prefix="/api/worklist", tags=["worklist"])

Status = Literal["scored", "waiting", "not_eligible", "failed"]
State = Literal["open", "read"]


class Item(BaseModel):
    """One study. `flagged` false is no negative: it only says that no model brought the study forward."""

    model_config = ConfigDict(from_attributes=True)

    study_uid: str
    due_at: dt.datetime
    arrived_at: dt.datetime
    latest_due_at: dt.datetime = Field(description="arrival and the site's maximum wait: `due_at` is never later")
    flagged: bool
    probability: float | None = Field(
        description="calibrated, of the image that shows most; null before a model read it"
    )
    findings: list[Finding] = Field(description="those at or above their threshold, strongest first, five at most")
    status: Status
    reason: str = Field(description="why it is due then, or why no model has read it; for a person")
    model: str = Field(description="name and version of the model behind `probability`")
    state: State
    site: str
    priority: Literal["stat", "urgent", "routine"]
    patient_name: str
    patient_id: str
    patient_birth_date: dt.date | None
    patient_sex: str
    accession_number: str
    study_date: dt.date | None
    study_time: str
    description: str
    modalities: list[str]
    series_count: int
    instance_count: int
    scored_at: dt.datetime | None
    read_at: dt.datetime | None
    read_by: str


class Worklist(BaseModel):
    """A page of the list."""

    mode: Literal["triage", "arrival"] = Field(description="arrival: no model runs, the order is that of arrival")
    banner: str = Field(description="what to tell people in mode arrival, else empty")
    items: list[Item]
    next: str | None = Field(description="`cursor` of the page after this one")


class NewState(BaseModel):
    """What a study shall be."""

    model_config = ConfigDict(extra="forbid")

    state: State


@router.get("", responses=responses(400, 401, 422, 503))
def read(
    *,
    here: Here,
    _: Actor,
    state: State = "open",
    flagged: bool | None = None,
    status: Status | None = None,
    site: Text = None,
    modality: Text = None,
    date_from: Annotated[dt.date | None, Query(description="study date, included")] = None,
    date_to: Annotated[dt.date | None, Query(description="study date, included")] = None,
    name: Annotated[Text, Query(description="beginnings of words of the name, in any order, accents optional")] = None,
    patient_id: Text = None,
    accession: Text = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Worklist:
    """Open studies by due time (those read: latest first). Without a model alive the order is that of arrival."""
    with here.database.autocommit() as connection:
        mode = worklist.mode(connection, stale_s=here.config.stale_worker_s)
        page = worklist.page(
            connection,
            mode=mode.mode,
            state=state,
            flagged=flagged,
            status=status,
            site=site,
            modality=modality,
            date_from=date_from,
            date_to=date_to,
            name=name,
            patient_id=patient_id,
            accession=accession,
            after=cursor,
            limit=limit,
        )
    items = [Item.model_validate(one) for one in page.items]
    return Worklist(mode=mode.mode, banner=mode.banner, items=items, next=page.next)


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={
        200: {"description": "Events named `changed`, without data", "content": {"text/event-stream": {}}},
        **responses(401, 503),
    },
)
async def events(here: Here, _: Actor) -> StreamingResponse:
    """Server-sent events: `changed` at the start, and whenever the list may have changed (a few a second at most)."""
    headers = {"X-Accel-Buffering": "no"}  # a proxy must not collect them
    return StreamingResponse(here.events.stream(), headers=headers, media_type="text/event-stream")


@router.put("/{study_uid}/state", responses=responses(400, 401, 403, 404, 413, 422, 503))
def change_state(here: Here, actor: Actor, study_uid: UidPath, body: NewState) -> Item:
    """Take a study off the list because a person has read it, or put it back; noted in the audit log."""
    with here.database.transaction() as connection:
        change = worklist.mark_read if body.state == "read" else worklist.reopen
        change(connection, study_uid, actor)
        item = Item.model_validate(worklist.item(connection, study_uid))
    with here.database.autocommit() as connection:
        worklist.announce(connection)
    return item
