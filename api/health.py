"""Whether the process runs, and whether it can work; needs no token, so it says no more than that."""

from __future__ import annotations

from typing import Literal

import structlog
from fastapi import APIRouter, Response
from pydantic import BaseModel

from api.context import Context, Here
from api.problems import reason
from storage import worklist
from storage.errors import Unavailable

__all__ = ["router"]

router = APIRouter(prefix="/health", tags=["operation"])

log = structlog.get_logger()


class Part(BaseModel):
    """One part that the API needs, or that the worklist is better with."""

    name: Literal["database", "object store", "worker"]
    status: Literal["up", "down"]
    reason: str = ""


class Readiness(BaseModel):
    """`ready` while database and object store answer; without a worker the list is in arrival order but served."""

    status: Literal["ready", "not ready"]
    parts: list[Part]


class Liveness(BaseModel):
    """The process answers."""

    status: Literal["live"] = "live"


@router.get("/live")
async def live() -> Liveness:
    """The process answers."""
    return Liveness()


@router.get("/ready", responses={503: {"model": Readiness, "description": "A part that is needed is away"}})
def ready(here: Here, response: Response) -> Readiness:
    """Whether requests can be served now, with the reason when not."""
    parts = [_database(here), _store(here), _worker(here)]
    up = all(part.status == "up" for part in parts[:2])
    if not up:
        response.status_code = 503
    return Readiness(status="ready" if up else "not ready", parts=parts)


def _database(here: Context) -> Part:
    try:
        here.database.check()
    except Unavailable as error:
        return Part(name="database", status="down", reason=reason(error))
    return Part(name="database", status="up")


def _store(here: Context) -> Part:
    try:
        here.store.check()
    except Unavailable as error:
        log.warning("object store not ready", error=str(error))
        return Part(name="object store", status="down", reason=reason(error))
    return Part(name="object store", status="up")


def _worker(here: Context) -> Part:
    try:
        with here.database.autocommit() as connection:
            mode = worklist.mode(connection, stale_s=here.config.stale_worker_s)
    except Unavailable as error:
        return Part(name="worker", status="down", reason=reason(error))
    return Part(name="worker", status="up" if mode.mode == "triage" else "down", reason=mode.banner)
