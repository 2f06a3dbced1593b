"""Triage jobs that were given up, and another try for them."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict

from api.context import Actor, Before, Here, Limit
from api.problems import responses
from storage import jobs, worklist

__all__ = ["router"]

router = APIRouter(prefix="/api/jobs", tags=["jobs"])


class DeadJob(BaseModel):
    """A job that was given up; `error` is what its last attempt said."""

    model_config = ConfigDict(from_attributes=True)

    job_pk: int
    study_uid: str
    sop_uid: str
    attempts: int
    error: str
    created_at: dt.datetime


class DeadJobs(BaseModel):
    """A page, oldest first."""

    items: list[DeadJob]
    next: int | None


class Retried(BaseModel):
    """The job waits again."""

    job_pk: int


@router.get("/dead", responses=responses(401, 422, 503))
def dead(here: Here, _: Actor, cursor: Before = None, limit: Limit = 50) -> DeadJobs:
    """Jobs that were given up; their studies stay on the worklist."""
    with here.database.autocommit() as connection:
        found = jobs.dead(connection, after=cursor or 0, limit=limit)
    last = found[-1].job_pk if len(found) == limit else None
    return DeadJobs(items=[DeadJob.model_validate(one) for one in found], next=last)


@router.post("/{job_pk}/retry", responses=responses(401, 403, 404, 422, 503))
def retry(here: Here, actor: Actor, job_pk: Annotated[int, Path(ge=1, le=2**63 - 1)]) -> Retried:
    """Let a job that was given up run again from its first attempt."""
    with here.database.transaction() as connection:
        jobs.retry(connection, job_pk, actor)
    with here.database.autocommit() as connection:
        jobs.notify(connection)
        worklist.announce(connection)
    return Retried(job_pk=job_pk)
