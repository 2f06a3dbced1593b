"""What was written of a model's results as DICOM objects, and the map of what was found as a picture over the film."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from api.context import Actor, Here, UidPath
from api.files import etag, is_known
from api.problems import responses
from pacs.heat import heat_of, painted, png
from storage import results, studies
from storage.errors import NotFound

__all__ = ["Result", "router"]

router = APIRouter(prefix="/api", tags=["results"])

_PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The map, transparent where nothing was seen", "content": {"image/png": {}}},
    304: {"description": "The client has this already"},
}


class Result(BaseModel):
    """One object about one image: a structured report (sr), a presentation state (pr) or a secondary capture (sc)."""

    model_config = ConfigDict(from_attributes=True)

    kind: Literal["sr", "pr", "sc"]
    state: Literal["waiting", "written", "skipped", "dead"]
    sop_uid: str = Field(description="of the object; empty until it is written")
    series_uid: str
    source_sop_uid: str = Field(description="of the image that it is about")
    model_name: str
    model_version: str
    reason: str = Field(description="why it is not written, or why the last try failed")
    changed_at: dt.datetime


class Results(BaseModel):
    """The objects of a study, newest first, and its images that have a map."""

    items: list[Result]
    maps: list[str]


@router.get("/studies/{study_uid}/results", responses=responses(401, 404, 422, 503))
def of_study(here: Here, _: Actor, study_uid: UidPath) -> Results:
    """What was written of the study's results, is due or will not be; nothing unless `report.objects` is set."""
    with here.database.autocommit() as connection:
        found, maps = results.of_study(connection, study_uid), results.mapped(connection, study_uid)
        if not found and not maps:
            studies.study(connection, study_uid)  # 404 for a study that does not exist
    return Results(items=[Result.model_validate(one) for one in found], maps=maps)


@router.get(
    "/instances/{sop_uid}/map", response_class=Response, responses={**_PICTURE, **responses(401, 404, 422, 503)}
)
def map_of(
    here: Here,
    _: Actor,
    sop_uid: UidPath,
    finding: Annotated[str | None, Query(max_length=64, description="only of this finding; all without")] = None,
    size: Annotated[int, Query(ge=16, le=1024, description="pixels of the longer side")] = 512,
    if_none_match: Annotated[str | None, Header(description="ETag of a copy that the client has")] = None,
) -> Response:
    """Where the newest model saw what it named, as a transparent PNG in the shape of the film; 404 without maps."""
    with here.database.autocommit() as connection:
        found = studies.instance(connection, sop_uid)
        key = results.map_key(connection, sop_uid)
    tag = etag(hashlib.sha256(f"{key} {finding} {size}".encode()).hexdigest())
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if is_known(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    heat = heat_of(here.store.read(key), [finding] if finding else [])
    rows, columns = found.rows or 1, found.columns or 1
    scale = size / max(rows, columns)
    if finding and not heat.any():
        raise NotFound(f"There is no map of {finding} for instance {sop_uid}.")
    body = png(painted(heat, max(1, round(rows * scale)), max(1, round(columns * scale))))
    return Response(body, headers=headers, media_type="image/png")
