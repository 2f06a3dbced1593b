"""WADO-RS: studies, series and instances as DICOM objects (PS3.18 10.4.1.1.1).

Stored bytes go out as they are when the client takes their transfer syntax, by sendfile; else corrected and transcoded.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from io import RawIOBase
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from api.context import Actor, Context, Here, UidPath
from api.dicomweb.bodies import Body, Made, Piece, Stored, answer, multipart, tag_of
from api.dicomweb.media import EXPLICIT, Offer, accepted, choose
from api.dicomweb.resources import INSTANCE, SERIES, STUDY, InstanceUids, get, missing, selection
from api.files import DICOM, is_known
from api.problems import responses
from pacs.metadata import versions
from pacs.outgoing import NotTranscodable, Outgoing, open_outgoing
from pacs.retrieve import Selection
from storage.objects import Buffer

__all__ = ["MANY_OFFERS", "ONE_OFFERS", "router"]

router = APIRouter(tags=["WADO-RS"])

_MULTIPART, _SINGLE, _ZIP = Offer(DICOM, multipart=True), Offer(DICOM), Offer("application/zip")
MANY_OFFERS = (_MULTIPART, _ZIP)
ONE_OFFERS = (_MULTIPART, _SINGLE, _ZIP)
_LISTED = 500  # instances whose rows are held at a time, so that the size of the answer is told beforehand
_CONTENT: dict[str, Any] = {'multipart/related; type="application/dicom"': {}, "application/zip": {}}
_DESCRIBED: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {"description": "The objects", "content": _CONTENT},
        206: {"description": "The range that was asked for, or those objects that can be given"},
        304: {"description": "The client has this already"},
        307: {"description": "The object is at this address of the object store, for some seconds"},
        **responses(400, 401, 404, 406, 410, 422, 503),
    },
}


@get(router, STUDY, **_DESCRIBED)
def study(request: Request, here: Here, actor: Actor, study_uid: UidPath) -> Response:
    """All instances of a study."""
    return _retrieve(request, here, actor, (study_uid,))


@get(router, SERIES, **_DESCRIBED)
def series(request: Request, here: Here, actor: Actor, study_uid: UidPath, series_uid: UidPath) -> Response:
    """All instances of a series."""
    return _retrieve(request, here, actor, (study_uid, series_uid))


@get(router, INSTANCE, **_DESCRIBED)
def instance(request: Request, here: Here, actor: Actor, uids: InstanceUids) -> Response:
    """One instance, also as a single part."""
    return _retrieve(request, here, actor, uids)


def _retrieve(request: Request, here: Context, actor: str, uids: Sequence[str]) -> Response:
    offer, syntaxes = choose(accepted(request), ONE_OFFERS if len(uids) == 3 else MANY_OFFERS)
    syntaxes = syntaxes or [EXPLICIT]
    found = selection(here, *uids)
    here.looks.note(here.database, actor, "study.retrieved", uids[0])
    few = _open(here, found, syntaxes) if len(found) <= _LISTED else None
    if few is not None and not few:
        raise NotTranscodable(f"not in any of {', '.join(syntaxes)}: accept transfer-syntax=*")
    status = 206 if few is not None and len(few) < len(found) else 200
    tag = _tag(here, uids, offer, syntaxes, few)
    if offer == _ZIP:
        body = Body([Made(lambda: _zipped(few or _each(here, found, syntaxes)))], offer.kind)
    elif offer == _SINGLE:
        assert few is not None
        if (elsewhere := _elsewhere(request, here, few[0], tag)) is not None:
            return elsewhere
        body = Body([_piece(few[0])], f"{DICOM}; transfer-syntax={few[0].transfer_syntax}")
    else:
        parts = [_part(one) for one in few] if few is not None else map(_part, _each(here, found, syntaxes))
        body = multipart(parts, DICOM, tag)
    return answer(here, request.headers, body, tag, headers=_headers(offer, uids), status=status)


def _elsewhere(request: Request, here: Context, one: Outgoing, tag: str) -> Response | None:
    """Who asks for one object as it is stored is sent to the object store where that is allowed: no byte comes here."""
    if not here.config.redirect_s or not one.untouched or request.method != "GET":
        return None
    if is_known(request.headers.get("if-none-match"), tag):
        return None
    url = here.store.url(one.instance.object_key, here.config.redirect_s)
    headers = {"ETag": tag, "Cache-Control": "no-store", "Vary": "Accept"}
    return None if url is None else RedirectResponse(url, 307, headers)


def _open(here: Context, found: Selection, syntaxes: Sequence[str]) -> list[Outgoing]:
    """The objects in the form in which they go out, without those that cannot be given so (PS3.18 table 10.4.3-1)."""
    opened = []
    for one in found:
        try:
            opened.append(open_outgoing(here.store, one, syntaxes))
        except NotTranscodable:
            continue
    return opened


def _each(here: Context, found: Selection, syntaxes: Sequence[str]) -> Iterator[Outgoing]:
    """The same for many objects, one at a time; one that cannot be given ends the answer, which then is no success."""
    for one in found:
        yield open_outgoing(here.store, one, syntaxes)


def _part(one: Outgoing) -> tuple[Mapping[str, str], Sequence[Piece]]:
    return {"Content-Type": f"{DICOM}; transfer-syntax={one.transfer_syntax}"}, [_piece(one)]


def _piece(one: Outgoing) -> Piece:
    if one.untouched:
        return Stored(one.instance.object_key, 0, one.instance.object_size)
    return Made(one.part10, heavy=True)


def _tag(
    here: Context, uids: Sequence[str], offer: Offer, syntaxes: Sequence[str], few: Sequence[Outgoing] | None
) -> str:
    """An entity tag of the digests of the data sets, or for many of them of the versions of their series."""
    if few is not None:
        parts = [(one.instance.sha256.hex(), one.transfer_syntax, _json(one.instance.corrections)) for one in few]
        return tag_of(offer, *parts)
    with here.database.autocommit() as connection:
        found = versions(connection, *uids[:2])
    if not found:
        raise missing(here, uids[0], uids[1] if len(uids) > 1 else None, None)
    return tag_of(offer, *syntaxes, *(one.version for one in found))


def _json(value: Mapping[str, Any]) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode() if value else ""


def _headers(offer: Offer, uids: Sequence[str]) -> dict[str, str]:
    if offer.multipart:
        return {}
    suffix = "zip" if offer == _ZIP else "dcm"
    return {"Content-Disposition": f'attachment; filename="{uids[-1]}.{suffix}"'}


class _Basket(RawIOBase):
    """Takes what zipfile writes until it is fetched."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._chunks.append(bytes(data))
        return len(data)

    def fetch(self) -> bytes:
        data = b"".join(self._chunks)
        self._chunks.clear()
        return data


def _zipped(objects: Iterator[Outgoing] | Sequence[Outgoing]) -> Iterator[Buffer]:
    """A ZIP archive of the objects without compression, one folder a series (PS3.18 8.6.1.3)."""
    basket = _Basket()
    with zipfile.ZipFile(basket, "w", zipfile.ZIP_STORED) as archive:
        for one in objects:
            name = zipfile.ZipInfo(f"{one.instance.series_uid}/{one.instance.sop_uid}.dcm", (1980, 1, 1, 0, 0, 0))
            with archive.open(name, "w", force_zip64=True) as entry:
                for chunk in one.part10():
                    entry.write(chunk)
                    yield basket.fetch()
    yield basket.fetch()
