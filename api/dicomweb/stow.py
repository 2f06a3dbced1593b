"""STOW-RS (PS3.18 10.5): instances in, with the same promises as C-STORE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson
import structlog
from anyio import WouldBlock, to_thread
from fastapi import APIRouter, HTTPException, Request, Response
from starlette.types import Receive

from api.context import LOCAL_ACTOR, Actor, Context, Here, UidPath
from api.dicomweb.deposit import Deposit, Destination, Parts, Reader, Single, TooManyParts
from api.dicomweb.intake import ClientGone, pump
from api.dicomweb.jsonstore import JsonParts, XmlParts
from api.dicomweb.media import Offer, accepted, choose
from api.dicomweb.multipart import MediaType, Multipart
from api.dicomweb.part10parts import Part10Parts
from api.dicomweb.resources import address
from api.dicomweb.storeanswer import Answer, Reason
from api.dicomweb.xml import native
from api.problems import RETRY_AFTER_S, problem, responses
from storage.errors import InvalidInput, ObjectTooLarge, Unavailable

__all__ = ["router"]

log = structlog.get_logger()
router = APIRouter(tags=["DICOMweb"])

_DICOM, _JSON, _XML = "application/dicom", "application/dicom+json", "application/dicom+xml"
_RELATED = "multipart/related"
_ANSWERS = (Offer(_JSON, aliases=("application/json",)), Offer(_XML))
_SOURCE = "STOW-RS"  # the source AE title while there are no tokens with names
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            f'{_RELATED}; type="{_DICOM}"': _BINARY,
            f'{_RELATED}; type="{_JSON}"': _BINARY,
            f'{_RELATED}; type="{_XML}"': _BINARY,
            _DICOM: _BINARY,
            _JSON: {"schema": {"type": "array", "items": {"type": "object"}, "minItems": 1}},
            _XML: _BINARY,
        },
    }
}
_PARTS: dict[str, Callable[[Destination], Parts]] = {_DICOM: Part10Parts, _JSON: JsonParts, _XML: XmlParts}
_MODULE: dict[str, Any] = {_JSON: {}, _XML: {}}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    **{status: {"description": "Store Instances Response Module", "content": _MODULE} for status in (200, 202)},
    **responses(401, 403, 406, 408, 415),
    # a problem where nothing was read, else the module (PS3.18 I.1)
    **{status: one | {"content": one["content"] | _MODULE} for status, one in responses(400, 409, 413, 503).items()},
}


@router.post("/studies", response_class=Response, responses=_RESPONSES, openapi_extra=_BODY)
async def store(here: Here, actor: Actor, request: Request) -> Response:
    """Store instances of any study (PS3.18 10.5): 200 all, 202 some of them; the body says which and why not."""
    return await _store(here, actor, request, "")


@router.post("/studies/{study_uid}", response_class=Response, responses=_RESPONSES, openapi_extra=_BODY)
async def store_in_study(here: Here, actor: Actor, request: Request, study_uid: UidPath) -> Response:
    """Store instances of one study; those of another one are refused."""
    return await _store(here, actor, request, study_uid)


async def _store(here: Context, actor: str, request: Request, study_uid: str) -> Response:
    offer, _ = choose(accepted(request), _ANSWERS)
    if here.intake is None:
        raise Unavailable("this server takes no instances")
    answer = Answer()
    to = Destination(
        ingest=here.intake.ingest,
        answer=answer,
        study_uid=study_uid,
        source_aet=_SOURCE if actor == LOCAL_ACTOR else actor,
        source_address=request.client.host if request.client else "",
        allow_private=here.config.allow_private_sop_classes,
    )
    reader, parts = _kind(request.headers.get("content-type", ""), to)
    deposit = Deposit(reader, parts, answer, max_parts=here.config.max_store_parts)
    try:
        here.intake.requests.acquire_nowait()
    except WouldBlock:
        raise Unavailable(f"{here.config.max_store_requests} requests store instances, the most at a time") from None
    try:
        refused = await _take(here, request.receive, deposit, answer)
    finally:
        here.intake.requests.release()
    return refused or _response(request, answer, offer)


def _kind(content_type: str, to: Destination) -> tuple[Reader, Parts]:
    """How to read the body, and what its parts become; 415 for what is not stored."""
    outer = MediaType.parse(content_type)
    related = outer.name == _RELATED
    inner = MediaType.parse(outer.parameters.get("type", _DICOM)).name if related else outer.name
    if inner not in _PARTS:
        raise HTTPException(415, f'send {_RELATED} with type="{_DICOM}", type="{_JSON}" or type="{_XML}"')
    return (Multipart(outer.boundary()) if related else Single(content_type)), _PARTS[inner](to)


async def _take(here: Context, receive: Receive, deposit: Deposit, answer: Answer) -> Response | None:
    """Read the body to its end; a problem where it cannot be read and nothing else is to be told."""

    def consume(chunks: Sequence[bytes], last: bool) -> None:
        deposit.feed(chunks)
        if last:
            deposit.finish()
            deposit.close()

    assert here.intake is not None
    try:
        await pump(receive, consume, here.intake.threads)
    except InvalidInput as error:
        too_much = isinstance(error, TooManyParts | ObjectTooLarge)
        if not answer.entries:
            return problem(413 if too_much else 400, str(error))
        answer.fail(Reason.TOO_LARGE if too_much else Reason.CANNOT_UNDERSTAND, str(error))
    except ClientGone:
        log.info("stow-rs client went away", stored=len(answer.stored), failed=len(answer.failed))
        return Response(status_code=400)  # nobody reads it
    finally:
        if not deposit.closed:
            await to_thread.run_sync(deposit.close, limiter=here.intake.threads)
    return None


def _response(request: Request, answer: Answer, offer: Offer) -> Response:
    module = answer.attributes(address(request))
    headers = {"Retry-After": str(RETRY_AFTER_S)} if answer.status == 503 else {}
    if answer.why:
        headers["Warning"] = f'299 sangloc "{_quotable(answer.why)}"'
    body = native(module) if offer.kind == _XML else orjson.dumps(module)
    return Response(body, answer.status, headers, offer.kind)


def _quotable(text: str) -> str:
    """What may stand between quotes in a header."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "'" for c in text)[:200]
