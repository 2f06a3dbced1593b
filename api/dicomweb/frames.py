"""WADO-RS frames and pixel data: as stored, or decoded (PS3.18 10.4.1.1.5, 8.7.3).

Stored frames go from file to socket. A compressed frame has the media type of its code stream; whoever asks for
application/octet-stream gets it decoded, little endian, colour as RGB by pixel; with `transfer-syntax=*` as stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response

from api.context import Actor, Context, Here
from api.dicomweb.bodies import Body, Made, Piece, Stored, answer, multipart, tag_of
from api.dicomweb.media import ANY_SYNTAX, EXPLICIT, Offer, accepted, choose
from api.dicomweb.resources import INSTANCE, FrameList, InstanceUids, get, one
from api.problems import responses
from pacs.frames import Image, open_image
from pacs.pixels import decode
from storage.errors import NotFound, ObjectStoreUnavailable

__all__ = ["KINDS", "OCTETS", "image_of", "pixel_data", "router"]

router = APIRouter(tags=["WADO-RS"])

OCTETS = "application/octet-stream"
_IMPLICIT_BIG = ("1.2.840.10008.1.2.2",)
KINDS = {  # transfer syntax -> media type and an older name for it (PS3.18 tables 8.7.3-4 and 8.7.3-5)
    "1.2.840.10008.1.2.5": ("image/dicom-rle", "image/x-dicom-rle"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70)), ("image/jpeg", "image/dicom+jpeg")),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (80, 81)), ("image/jls", "image/x-jls")),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (90, 91)), ("image/jp2", "image/dicom+jp2")),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (92, 93)), ("image/jpx", "image/dicom+jpx")),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203)), ("image/jphc", "image/htj2k")),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (100, 101)), ("video/mpeg", "video/mpeg2")),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in range(102, 107)), ("video/mp4", "video/mp4")),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (107, 108)), ("video/h265", "video/mp4")),
}
_DESCRIBED: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {"description": "The frames", "content": {f'multipart/related; type="{OCTETS}"': {}, OCTETS: {}}},
        206: {"description": "The range that was asked for"},
        304: {"description": "The client has this already"},
        **responses(400, 401, 404, 406, 410, 422, 503),
    },
}


@get(router, INSTANCE + "/frames/{frames}", **_DESCRIBED)
def frames(request: Request, here: Here, actor: Actor, uids: InstanceUids, numbers: FrameList) -> Response:
    """Some frames, a part each; a single one also by itself."""
    return pixel_data(request, here, image_of(here, actor, uids), numbers)


@get(router, INSTANCE + "/pixeldata", **_DESCRIBED)
def pixels(request: Request, here: Here, actor: Actor, uids: InstanceUids) -> Response:
    """All frames."""
    return pixel_data(request, here, image_of(here, actor, uids), None)


def image_of(here: Context, actor: str, uids: tuple[str, str, str]) -> Image:
    """The image of an instance; its study is noted as viewed."""
    found = one(here, *uids)
    here.looks.note(here.database, actor, "study.viewed", uids[0])
    try:
        return open_image(here.store, found)
    except NotFound as error:
        raise ObjectStoreUnavailable("the object of a row is missing from the object store") from error


def pixel_data(request: Request, here: Context, image: Image, numbers: Sequence[int] | None) -> Response:
    """Some frames of an image, or all of them, as the client accepts them.

    Raises:
        NotFound: it has no such frame.
        HTTPException: 406, see `choose`; none of the accepted transfer syntaxes is the stored one or uncompressed.
    """
    if numbers is not None and (worst := max(numbers)) > image.frames:
        raise NotFound(f"The instance has {image.frames} frames, number {worst} is not one of them.")
    wanted = list(numbers or range(1, image.frames + 1))
    offer, syntaxes = choose(accepted(request), _offers(image, single=len(wanted) == 1))
    syntax = _syntax(image, offer, syntaxes)
    kind = f"{offer.kind}; transfer-syntax={syntax}"
    tag = tag_of(image.instance.sha256.hex(), offer, syntax, *wanted)
    contents = ([*_stored(image, n)] if syntax == _given(image) else [_decoded(here, image, n)] for n in wanted)
    if not offer.multipart:
        return answer(here, request.headers, Body(next(contents), kind), tag)
    parts: list[tuple[Mapping[str, str], Sequence[Piece]]] = [({"Content-Type": kind}, one) for one in contents]
    return answer(here, request.headers, multipart(parts, offer.kind, tag), tag)


def _given(image: Image) -> str:
    """The transfer syntax of the frames as they are stored; little endian ones do not differ (PS3.5 A.1, A.2)."""
    stored = image.instance.transfer_syntax
    return stored if image.encapsulated or stored in _IMPLICIT_BIG else EXPLICIT


def _offers(image: Image, *, single: bool) -> list[Offer]:
    kinds: list[tuple[str, tuple[str, ...]]] = [(OCTETS, ())]
    if image.encapsulated and image.instance.transfer_syntax in KINDS:
        kind, alias = KINDS[image.instance.transfer_syntax]
        kinds.append((kind, (alias,)))
    related = [Offer(kind, multipart=True, aliases=aliases) for kind, aliases in kinds]
    return related + [Offer(kind, aliases=aliases) for kind, aliases in kinds if single]


def _syntax(image: Image, offer: Offer, syntaxes: Sequence[str]) -> str:
    """The transfer syntax in which the frames go out: the stored one or Explicit VR Little Endian."""
    given = _given(image)
    if offer.kind != OCTETS:
        if syntaxes and not {ANY_SYNTAX, given} & set(syntaxes):
            raise HTTPException(406, f"the frames are stored in {given}")
        return given
    for asked in syntaxes:
        if asked in (given, ANY_SYNTAX):
            return given
        if asked in (EXPLICIT, "1.2.840.10008.1.2"):
            return EXPLICIT
    if syntaxes:
        raise HTTPException(406, f"the frames can be given in {given} or {EXPLICIT}")
    return EXPLICIT


def _stored(image: Image, number: int) -> Iterator[Piece]:
    ranges = image.ranges(number - 1)
    if ranges is None:
        yield image.frame(number - 1)
        return
    for offset, size in ranges:
        yield Stored(image.instance.object_key, offset, size)


def _decoded(here: Context, image: Image, number: int) -> Piece:
    def make() -> Iterator[bytes]:
        pixels = decode(image, number - 1, max_samples=here.config.max_render_pixels)
        yield pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()

    return Made(make, heavy=True)
