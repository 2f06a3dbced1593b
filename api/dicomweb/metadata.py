"""WADO-RS metadata: everything but the bulk data, as DICOM JSON or XML (PS3.18 10.4.1.1.2)."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from api.context import Actor, Context, Here, UidPath
from api.dicomweb.bodies import Body, Made, answer, multipart, tag_of
from api.dicomweb.media import Offer, accepted, choose
from api.dicomweb.resources import INSTANCE, SERIES, STUDY, InstanceUids, address, get, missing, one, selection
from api.problems import responses
from pacs.metadata import BASE, SeriesVersion, attributes, series_json, versions

__all__ = ["OFFERS", "router"]

router = APIRouter(tags=["WADO-RS"])

_JSON = Offer("application/dicom+json", aliases=("application/json",))
_XML = Offer("application/dicom+xml", multipart=True)
OFFERS = (_JSON, _XML)
_PIECE_BYTES = 256 << 10
_GZIP_LEVEL = 1
_DESCRIBED: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {
            "description": "One object an instance",
            "content": {_JSON.kind: {}, 'multipart/related; type="application/dicom+xml"': {}},
        },
        304: {"description": "The client has this already"},
        **responses(400, 401, 404, 406, 410, 422, 503),
    },
}


@get(router, STUDY + "/metadata", **_DESCRIBED)
def study(request: Request, here: Here, actor: Actor, study_uid: UidPath) -> Response:
    """Metadata of all instances of a study."""
    return _of_many(request, here, actor, study_uid)


@get(router, SERIES + "/metadata", **_DESCRIBED)
def series(request: Request, here: Here, actor: Actor, study_uid: UidPath, series_uid: UidPath) -> Response:
    """Metadata of all instances of a series."""
    return _of_many(request, here, actor, study_uid, series_uid)


@get(router, INSTANCE + "/metadata", **_DESCRIBED)
def instance(request: Request, here: Here, actor: Actor, uids: InstanceUids) -> Response:
    """Metadata of one instance."""
    offer, _ = choose(accepted(request), OFFERS)
    found = one(here, *uids)
    here.looks.note(here.database, actor, "study.viewed", uids[0])
    model = attributes(here.store, found, address(request))
    if offer == _XML:
        return _xml(request, here, [model], tag_of("xml", orjson.dumps(model)))
    body = orjson.dumps([model])
    return answer(here, request.headers, Body([body], offer.kind), tag_of("json", body))


def _of_many(request: Request, here: Context, actor: str, study_uid: str, series_uid: str | None = None) -> Response:
    offer, _ = choose(accepted(request), OFFERS)
    with here.database.autocommit() as connection:
        found = versions(connection, study_uid, series_uid)
    if not found:
        raise missing(here, study_uid, series_uid, None)
    here.looks.note(here.database, actor, "study.viewed", study_uid)
    base = address(request)
    packed = "gzip" in _encodings(request)
    tag = tag_of(offer, base, packed, *(one.version for one in found))
    if offer == _XML:
        chosen = selection(here, study_uid, series_uid)
        return _xml(request, here, (attributes(here.store, stored, base) for stored in chosen), tag)
    where = orjson.dumps(base)[1:-1]

    def pieces() -> Iterator[bytes]:
        made = _gathered(_joined(here, found, where))
        return _gzip(made) if packed else made

    headers = {"Content-Encoding": "gzip"} if packed else {}
    return answer(here, request.headers, Body([Made(pieces)], offer.kind), tag, headers=headers)


def _joined(here: Context, found: Sequence[SeriesVersion], base: bytes) -> Iterator[bytes]:
    """One JSON array of the objects of all series."""
    before = b"["
    for series in found:
        for piece in series_json(here.database, here.store, series):
            if piece:
                yield before + piece.replace(BASE, base)
                before = b""
        before = before or b","
    yield b"[]" if before == b"[" else b"]"


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces put together to larger ones."""
    kept: list[bytes] = []
    size = 0
    for piece in pieces:
        kept.append(piece)
        size += len(piece)
        if size >= _PIECE_BYTES:
            yield b"".join(kept)
            kept.clear()
            size = 0
    yield b"".join(kept)


def _gzip(pieces: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()


def _encodings(request: Request) -> set[str]:
    """The content codings that the client names and does not refuse."""
    members = [one.partition(";") for one in request.headers.get("accept-encoding", "").lower().split(",")]
    return {name.strip() for name, _, rest in members if rest.strip().replace(" ", "") not in ("q=0", "q=0.0")}


def _xml(request: Request, here: Context, models: Iterable[dict[str, Any]], tag: str) -> Response:
    """Native DICOM models (PS3.19 A), a part each."""
    from api.dicomweb.xml import native  # noqa: PLC0415

    headers = {"Content-Type": _XML.kind}
    body = multipart(((headers, [native(model)]) for model in models), _XML.kind, tag)
    return answer(here, request.headers, body, tag)
