"""WADO-RS bulk data: the value behind a BulkDataURI of our metadata (PS3.18 10.4.1.1.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from api.context import Actor, Context, Here
from api.dicomweb.bodies import Body, Piece, Stored, answer, multipart, tag_of
from api.dicomweb.frames import OCTETS, image_of, pixel_data
from api.dicomweb.media import Offer, accepted, choose
from api.dicomweb.resources import INSTANCE, InstanceUids, get, one
from api.problems import responses
from pacs.bulk import find
from pacs.elements import PIXEL_TAGS
from pacs.retrieve import StoredInstance
from storage.errors import NotFound, ObjectStoreUnavailable

__all__ = ["OFFERS", "router", "value_of"]

router = APIRouter(tags=["WADO-RS"])

OFFERS = (Offer(OCTETS), Offer(OCTETS, multipart=True))
Place = Annotated[
    str,
    Path(
        pattern=r"^[0-9A-Fa-f]{8}(/[0-9]{1,6}/[0-9A-Fa-f]{8})*$",
        max_length=500,
        description="tag, or tag/item/tag where items of sequences are counted from 0",
    ),
]


@get(
    router,
    INSTANCE + "/bulkdata/{place:path}",
    response_class=Response,
    responses={
        200: {"description": "The value", "content": {OCTETS: {}, f'multipart/related; type="{OCTETS}"': {}}},
        206: {"description": "The range that was asked for"},
        304: {"description": "The client has this already"},
        **responses(400, 401, 404, 406, 410, 422, 503),
    },
)
def bulk_data(request: Request, here: Here, actor: Actor, uids: InstanceUids, place: Place) -> Response:
    """A value that the metadata of an instance give by its address; compressed pixel data as its frames."""
    if "/" not in place and int(place, 16) in PIXEL_TAGS:
        image = image_of(here, actor, uids)
        if image.encapsulated:
            return pixel_data(request, here, image, None)
    found = one(here, *uids)
    here.looks.note(here.database, actor, "study.viewed", uids[0])
    offer, _ = choose(accepted(request), OFFERS)
    tag = tag_of(found.sha256.hex(), offer, place.upper())
    content = [value_of(here, found, place)]
    if not offer.multipart:
        return answer(here, request.headers, Body(content, OCTETS), tag)
    part: tuple[Mapping[str, str], Sequence[Piece]] = {"Content-Type": OCTETS}, content
    return answer(here, request.headers, multipart([part], OCTETS, tag), tag)


def value_of(here: Context, instance: StoredInstance, place: str) -> Piece:
    """The value at a place of an instance; raises `NotFound` where there is none."""
    try:
        found = find(here.store, instance, place)
    except NotFound as error:
        raise ObjectStoreUnavailable("the object of a row is missing from the object store") from error
    if found is None:
        raise NotFound(f"The instance has no value at {place}.")
    return found if isinstance(found, bytes) else Stored(instance.object_key, *found)
