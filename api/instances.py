"""One instance: what the index knows, the file as it came, and a picture of it."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Header, HTTPException, Query, Response
from pydantic import BaseModel, ConfigDict, field_validator

from api.context import Actor, Context, Here, UidPath
from api.files import DICOM, etag, is_known, object_response
from api.problems import responses
from api.rendering import Picture, Rendered, render
from pacs.frames import open_image
from pacs.retrieve import Selection
from storage import audit, studies
from storage.errors import NotFound, ObjectStoreUnavailable

__all__ = ["Instance", "router"]

router = APIRouter(prefix="/api/instances", tags=["instances"])

IfNoneMatch = Annotated[str | None, Header(description="ETag of a copy that the client has")]
Window = Annotated[float | None, Query(ge=-1e9, le=1e9, allow_inf_nan=False)]
_PICTURES = {
    "description": "The picture",
    "content": {"image/png": {}, "image/jpeg": {}},
    "headers": {
        "X-Window": {"description": "centre,width that were used (grey images)", "schema": {"type": "string"}},
        "X-Values": {"description": "smallest,largest value (grey images)", "schema": {"type": "string"}},
    },
}
_NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "The client has this already"}}


class Instance(BaseModel):
    """One stored SOP instance; `sha256` is of its data set as it was received."""

    model_config = ConfigDict(from_attributes=True)

    sop_uid: str
    series_uid: str
    study_uid: str
    modality: str
    sop_class: str
    transfer_syntax: str
    instance_number: int | None
    rows: int | None
    columns: int | None
    bits_allocated: int | None
    frames: int | None
    photometric: str
    view_position: str
    image_type: str
    object_size: int
    sha256: str
    received_at: dt.datetime
    source_aet: str
    triage: str
    triage_reason: str

    @field_validator("sha256", mode="before")
    @classmethod
    def _hex(cls, value: object) -> object:
        return value.hex() if isinstance(value, bytes) else value


@router.get("/{sop_uid}", responses=responses(401, 404, 422, 503))
def instance(here: Here, _: Actor, sop_uid: UidPath) -> Instance:
    """What the index knows of one instance."""
    return Instance.model_validate(_find(here, sop_uid))


@router.get(
    "/{sop_uid}/file",
    response_class=Response,
    responses={
        200: {"description": "The Part 10 file as it was stored", "content": {DICOM: {}}},
        **_NOT_MODIFIED,
        **responses(401, 404, 422, 503),
    },
)
def file(here: Here, actor: Actor, sop_uid: UidPath, if_none_match: IfNoneMatch = None) -> Response:
    """The file as it was stored, byte for byte; the ETag is the SHA-256 of its data set."""
    found = _find(here, sop_uid)
    digest = found.sha256.hex()
    if is_known(if_none_match, etag(digest)):
        return Response(status_code=304, headers={"ETag": etag(digest), "Cache-Control": "private, no-cache"})
    response = object_response(here.store, found.object_key, size=found.object_size, digest=digest, name=sop_uid)
    _note(here, actor, "instance.downloaded", found)
    return response


@router.get(
    "/{sop_uid}/rendered",
    response_class=Response,
    responses={200: _PICTURES, **_NOT_MODIFIED, **responses(400, 401, 404, 422, 503)},
)
async def rendered(
    *,
    here: Here,
    actor: Actor,
    sop_uid: UidPath,
    format: Literal["png", "jpeg"] = "png",  # noqa: A002 - the name in the address
    size: Annotated[int, Query(ge=1, le=4096, description="pixels of the longer side at most")] = 1024,
    window_center: Window = None,
    window_width: Annotated[float | None, Query(ge=1e-6, le=1e9, allow_inf_nan=False)] = None,
    frame: Annotated[int, Query(ge=1, le=2**31 - 1)] = 1,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """One frame as a picture of 8 bits, windowed as asked, else as the file says; 422 says why there is none."""
    if (window_center is None) != (window_width is None):
        raise HTTPException(400, "window_center and window_width belong together")
    picture = Picture(format=format, size=size, center=window_center, width=window_width, frame=frame)
    # A limiter of its own: pictures take memory and time, and must not keep the worklist waiting for a thread.
    return await to_thread.run_sync(_render, here, actor, sop_uid, picture, if_none_match, limiter=here.rendering)


def _render(here: Context, actor: str, sop_uid: str, picture: Picture, if_none_match: str | None) -> Response:
    found = _find(here, sop_uid)
    tag = etag(hashlib.sha256(found.sha256 + repr(picture).encode()).hexdigest())
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if is_known(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    result = here.pictures.get(tag, lambda: _picture(here, sop_uid, picture))
    if picture.center is None:  # moving the window over an image is one look at it, not many
        _note(here, actor, "instance.viewed", found)
    return Response(result.body, headers=headers | _grey_headers(result), media_type=f"image/{picture.format}")


def _picture(here: Context, sop_uid: str, picture: Picture) -> Rendered:
    for found in Selection(here.database, sop_uids=sop_uid):
        try:
            return render(open_image(here.store, found), picture, max_pixels=here.config.max_render_pixels)
        except NotFound as error:
            raise ObjectStoreUnavailable("the object of this row is missing from the object store") from error
    raise NotFound(f"There is no instance {sop_uid}.")


def _grey_headers(result: Rendered) -> dict[str, str]:
    pairs = {"X-Window": result.window, "X-Values": result.values}
    return {name: f"{pair[0]:g},{pair[1]:g}" for name, pair in pairs.items() if pair is not None}


def _find(here: Context, sop_uid: str) -> studies.Instance:
    with here.database.autocommit() as connection:
        return studies.instance(connection, sop_uid)


def _note(here: Context, actor: str, action: str, found: studies.Instance) -> None:
    with here.database.autocommit() as connection:
        audit.add(connection, actor, action, found.study_uid, {"sop_uid": found.sop_uid})
