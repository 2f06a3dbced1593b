"""WADO-RS rendered and thumbnail: pictures that any browser shows (PS3.18 10.4.1.1.3, 10.4.1.1.6, 8.3.5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, Literal

import orjson
from anyio import to_thread
from fastapi import APIRouter, HTTPException, Request, Response

from api.context import Actor, Context, Here, UidPath
from api.dicomweb.bodies import Body, Made, Piece, answer, boundary_of, delimited, related, tag_of
from api.dicomweb.bulkdata import value_of
from api.dicomweb.media import Offer, accepted, choose
from api.dicomweb.picturequery import Asked
from api.dicomweb.resources import INSTANCE, SERIES, STUDY, FrameList, InstanceUids, get, one, selection
from api.files import is_known
from api.problems import responses
from api.rendering import Picture, Rendered, render
from pacs.frames import Image, open_image
from pacs.retrieve import Selection, StoredInstance
from storage.errors import InvalidDataSet, NotFound, ObjectStoreUnavailable

__all__ = ["OFFERS", "router"]

router = APIRouter(tags=["WADO-RS"])

_FORMATS: dict[str, Literal["jpeg", "png"]] = {"image/jpeg": "jpeg", "image/png": "png"}
_SINGLE = tuple(map(Offer, _FORMATS))
_MULTIPART = tuple(Offer(kind, multipart=True) for kind in _FORMATS)
OFFERS = (*_SINGLE, *_MULTIPART)
_PDF, _PDF_STORAGE = Offer("application/pdf"), "1.2.840.10008.5.1.4.1.1.104.1"
_ENCAPSULATED_DOCUMENT = "00420011"
_MOST_MANY = 1000  # pictures in one answer
_THUMBNAIL_PIXELS = 256

_DESCRIBED: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {
            "description": "The picture; of several images a part each",
            "content": {"image/jpeg": {}, "image/png": {}, 'multipart/related; type="image/jpeg"': {}},
        },
        304: {"description": "The client has this already"},
        **responses(400, 401, 404, 406, 410, 422, 503),
    },
}


@get(router, STUDY + "/rendered", **_DESCRIBED)
async def study(request: Request, here: Here, actor: Actor, study_uid: UidPath, picture: Asked) -> Response:
    """Pictures of all images of a study, a part each."""
    return await _many(request, here, actor, (study_uid,), picture)


@get(router, SERIES + "/rendered", **_DESCRIBED)
async def series(
    *, request: Request, here: Here, actor: Actor, study_uid: UidPath, series_uid: UidPath, picture: Asked
) -> Response:
    """Pictures of all images of a series, a part each."""
    return await _many(request, here, actor, (study_uid, series_uid), picture)


@get(router, INSTANCE + "/rendered", **_DESCRIBED)
async def instance(request: Request, here: Here, actor: Actor, uids: InstanceUids, picture: Asked) -> Response:
    """A picture of one image; of one with many frames the representative one, or all of them as parts.

    An encapsulated PDF document is given as it is.
    """
    found = await to_thread.run_sync(_find, here, actor, uids)
    if found.sop_class == _PDF_STORAGE:
        return await to_thread.run_sync(_document, request, here, found)
    return await _one(request, here, found, picture)


@get(router, INSTANCE + "/frames/{frames}/rendered", **_DESCRIBED)
async def frames(
    *, request: Request, here: Here, actor: Actor, uids: InstanceUids, numbers: FrameList, picture: Asked
) -> Response:
    """Pictures of some frames."""
    found = await to_thread.run_sync(_find, here, actor, uids)
    return await _one(request, here, found, picture, numbers)


def _document(request: Request, here: Context, found: StoredInstance) -> Response:
    offer, _ = choose(accepted(request), (_PDF,))
    tag = tag_of(found.sha256.hex(), offer)
    return answer(here, request.headers, Body([value_of(here, found, _ENCAPSULATED_DOCUMENT)], offer.kind), tag)


def _find(here: Context, actor: str, uids: tuple[str, str, str]) -> StoredInstance:
    found = one(here, *uids)
    here.looks.note(here.database, actor, "study.viewed", uids[0])
    return found


async def _one(
    request: Request, here: Context, found: StoredInstance, picture: Picture, numbers: Sequence[int] | None = None
) -> Response:
    """One picture as it is, or several as parts; without numbers the representative frame, or as parts all of them."""
    single = numbers is None or len(numbers) == 1
    offer, _ = choose(accepted(request), OFFERS if single else _MULTIPART)
    picture = replace(picture, format=_FORMATS[offer.kind], frame=numbers[0] if numbers else 0)
    tag = tag_of(found.sha256.hex(), _json(found.corrections), picture, offer, numbers)
    if is_known(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers={"ETag": tag})
    if not offer.multipart:
        made = here.pictures.find(tag)
        if made is None:
            # A limiter of its own: pictures take memory and time, and must not keep the others waiting for a thread.
            make = partial(here.pictures.get, tag, partial(_picture, here, found, picture))
            made = await to_thread.run_sync(make, limiter=here.rendering)
        return answer(here, request.headers, Body([made.body], offer.kind), tag)

    def parts() -> Iterator[tuple[Mapping[str, str], list[Piece]]]:
        image = _image(here, found)
        for number in numbers or range(1, image.frames + 1):
            yield {"Content-Type": offer.kind}, [_draw(here, image, replace(picture, frame=number)).body]

    return _related(request, here, offer, tag, parts)


async def _many(request: Request, here: Context, actor: str, uids: tuple[str, ...], picture: Picture) -> Response:
    """The representative frame of each image as a part; what is no image is left out (PS3.18 10.4.1.1.3)."""
    found = await to_thread.run_sync(_select, here, actor, uids)
    if len(found) == 1:
        return await _one(request, here, await to_thread.run_sync(next, iter(found)), picture)
    offer, _ = choose(accepted(request), _MULTIPART)
    picture = replace(picture, format=_FORMATS[offer.kind], frame=0)
    stored = await to_thread.run_sync(list, found)
    tag = tag_of(*((each.sha256.hex(), _json(each.corrections)) for each in stored), picture, offer)

    def parts() -> Iterator[tuple[Mapping[str, str], list[Piece]]]:
        none = True
        for each in stored:
            with suppress(InvalidDataSet):
                yield {"Content-Type": offer.kind}, [_picture(here, each, picture).body]
                none = False
        if none:
            raise InvalidDataSet("there is no image among the instances that can be shown")

    return _related(request, here, offer, tag, parts)


def _select(here: Context, actor: str, uids: tuple[str, ...]) -> Selection:
    found = selection(here, *uids)
    if len(found) > _MOST_MANY:
        raise HTTPException(400, f"pictures of {len(found)} instances at once are too many: ask for those of a series")
    here.looks.note(here.database, actor, "study.viewed", uids[0])
    return found


def _related(
    request: Request,
    here: Context,
    offer: Offer,
    tag: str,
    parts: Callable[[], Iterator[tuple[Mapping[str, str], list[Piece]]]],
) -> Response:
    """A multipart answer whose parts are made one after another, each in its turn among the pictures."""
    boundary = boundary_of(tag)

    def made() -> Iterator[bytes]:
        for piece in delimited(parts(), boundary):
            assert isinstance(piece, bytes)
            yield piece

    body = Body([Made(made, heavy=True)], related(offer.kind, boundary))
    return answer(here, request.headers, body, tag)


def _picture(here: Context, found: StoredInstance, picture: Picture) -> Rendered:
    return _draw(here, _image(here, found), picture)


def _image(here: Context, found: StoredInstance) -> Image:
    try:
        return open_image(here.store, found)
    except NotFound as error:
        raise ObjectStoreUnavailable("the object of a row is missing from the object store") from error


def _draw(here: Context, image: Image, picture: Picture) -> Rendered:
    """The picture; frame 0 is the representative one by (0028,6010), else the first."""
    if picture.frame == 0:
        chosen = image.header.get("RepresentativeFrameNumber") or 1
        picture = replace(picture, frame=int(chosen) if 1 <= int(chosen) <= image.frames else 1)
    if picture.frame > image.frames:
        raise NotFound(f"The instance has {image.frames} frames, number {picture.frame} is not one of them.")
    return render(image, picture, max_pixels=here.config.max_render_pixels)


def _json(value: Mapping[str, Any]) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode() if value else ""


@get(router, STUDY + "/thumbnail", **_DESCRIBED)
async def study_thumbnail(request: Request, here: Here, actor: Actor, study_uid: UidPath, picture: Asked) -> Response:
    """A small picture that stands for a study."""
    return await _thumbnail(request, here, actor, (study_uid,), picture)


@get(router, SERIES + "/thumbnail", **_DESCRIBED)
async def series_thumbnail(
    *, request: Request, here: Here, actor: Actor, study_uid: UidPath, series_uid: UidPath, picture: Asked
) -> Response:
    """A small picture that stands for a series: of the image in its middle."""
    return await _thumbnail(request, here, actor, (study_uid, series_uid), picture)


@get(router, INSTANCE + "/thumbnail", **_DESCRIBED)
async def instance_thumbnail(
    request: Request, here: Here, actor: Actor, uids: InstanceUids, picture: Asked
) -> Response:
    """A small picture of an image."""
    return await _thumbnail(request, here, actor, uids, picture)


@get(router, INSTANCE + "/frames/{frames}/thumbnail", **_DESCRIBED)
async def frame_thumbnail(
    *, request: Request, here: Here, actor: Actor, uids: InstanceUids, numbers: FrameList, picture: Asked
) -> Response:
    """A small picture of a frame, the first of those that are named."""
    found = await to_thread.run_sync(_find, here, actor, uids)
    return await _one(request, here, found, _small(picture), numbers[:1])


async def _thumbnail(request: Request, here: Context, actor: str, uids: tuple[str, ...], picture: Picture) -> Response:
    found = await to_thread.run_sync(_middle, here, actor, uids)
    return await _one(request, here, found, _small(picture))


def _small(picture: Picture) -> Picture:
    return picture if picture.viewport else replace(picture, size=_THUMBNAIL_PIXELS)


def _middle(here: Context, actor: str, uids: tuple[str, ...]) -> StoredInstance:
    """The instance in the middle; of those of a study, in the first series."""
    found = list(islice(selection(here, *uids), _MOST_MANY))
    here.looks.note(here.database, actor, "study.viewed", uids[0])
    found = [each for each in found if each.series_uid == found[0].series_uid]
    return found[len(found) // 2]
