"""UPS-RS (PS3.18 11): workitems over HTTP, the IHE AIW-I way to ask for an analysis."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

import orjson
from anyio import to_thread
from fastapi import APIRouter, HTTPException, Path, Request
from starlette.responses import Response

from api.context import Actor, Context, Here, UidPath
from api.dicomweb.jsonmodel import Model, check, objects
from api.dicomweb.media import Offer, accepted, choose
from api.dicomweb.multipart import MediaType
from api.dicomweb.resources import origin
from api.problems import problem, responses
from pacs.ups import events, matching, steps
from pacs.ups.attributes import SOP_INSTANCE, STATE, TRANSACTION_UID, first
from storage import audit, subscriptions, workitems
from storage.errors import InvalidDataSet, InvalidInput, NotFound
from storage.subscriptions import ALL, FILTERED
from storage.uid import UID

__all__ = ["AeTitle", "router"]

_Result = TypeVar("_Result")

router = APIRouter(tags=["UPS-RS"])

_JSON = Offer("application/dicom+json", aliases=("application/json",))
_MOST_EXAMINED = 5_000  # workitems that an index finds and that are then held against the other keys
_MOST_RETURNED = 1_000
AeTitle = Annotated[str, Path(pattern=r"^[\x21-\x5B\x5D-\x7E]{1,16}$", description="AE title of the subscriber")]

_LOCK = ("deletionlock", "deletion-lock")
_AFFECTED = ("00000002", "00001000")  # some clients send the UIDs of the DIMSE message
_CONTENT = {_JSON.kind: {"schema": {"type": "array", "items": {"type": "object"}, "maxItems": 1}}}
_BODY: dict[str, Any] = {"requestBody": {"required": True, "content": _CONTENT}}
_OPTIONAL_BODY: dict[str, Any] = {"requestBody": {"required": False, "content": _CONTENT}}
_PROBLEMS = responses(400, 401, 403, 404, 408, 409, 413, 415, 503)
_FOUND: dict[int | str, dict[str, Any]] = {
    200: {"description": "Workitems, the newest first", "content": {_JSON.kind: {}}}
}
_NOTHING: dict[int | str, dict[str, Any]] = {204: {"description": "Nothing matches"}}


def _done(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": "Done"} for status in statuses} | _PROBLEMS


@router.post("/workitems", status_code=201, response_class=Response, responses=_done(201), openapi_extra=_BODY)
async def create(request: Request, here: Here, actor: Actor) -> Response:
    """Ask for work: a new workitem, its UID given as `?workitem=`, or made here (PS3.18 11.4)."""
    model = await _model(request)
    wanted = _parameter(request, "workitem", "AffectedSOPInstanceUID")
    uid = str(UID(wanted or first(model, "00001000") or first(model, SOP_INSTANCE) or f"2.25.{uuid.uuid4().int}"))

    def work() -> list[str]:
        with here.database.transaction() as connection:
            return steps.create(connection, uid, model, actor)

    warnings = await _run(here, work)
    address = f"{origin(request)}{request.url.path}/{uid}"
    return Response(status_code=201, headers={"Location": address, "Content-Location": address, **_warned(*warnings)})


@router.get(
    "/workitems",
    response_class=Response,
    responses=_FOUND | _NOTHING | responses(400, 401, 406, 503),
)
def search(request: Request, here: Here, _: Actor) -> Response:
    """Search for workitems with the matching of QIDO-RS (PS3.18 11.9)."""
    choose(accepted(request), (_JSON,))
    asked = matching.read_filter(request.query_params.multi_items())
    with here.database.autocommit() as connection:
        found = workitems.candidates(connection, matching.criteria_of(asked.keys), limit=_MOST_EXAMINED)
    limit = min(asked.limit if asked.limit is not None else _MOST_RETURNED, _MOST_RETURNED)
    fitting = [one.attributes for one in found if matching.fits(one.attributes, asked.keys)]
    page = fitting[asked.offset : asked.offset + limit]
    cut = len(found) == _MOST_EXAMINED or len(fitting) > asked.offset + len(page)
    headers = {"X-Total-Count": str(len(fitting))} | (_warned("There are more workitems than these") if cut else {})
    if not page:
        return Response(status_code=204, headers=headers)
    return Response(orjson.dumps(page), headers=headers, media_type=_JSON.kind)


@router.get("/workitems/{uid}", response_class=Response, responses=_FOUND | responses(400, 401, 404, 406, 503))
def retrieve(request: Request, here: Here, _: Actor, uid: UidPath) -> Response:
    """One workitem, without its Transaction UID (PS3.18 11.5)."""
    choose(accepted(request), (_JSON,))
    with here.database.autocommit() as connection:
        found = workitems.get(connection, uid)
    return Response(orjson.dumps([found.attributes]), media_type=_JSON.kind)


@router.post("/workitems/{uid}", response_class=Response, responses=_done(200), openapi_extra=_BODY)
async def update(request: Request, here: Here, actor: Actor, uid: UidPath) -> Response:
    """Change attributes; one that is in progress by whoever knows its `?transaction-uid=` (PS3.18 11.6)."""
    model = await _model(request)
    transaction = _parameter(request, "transaction-uid", "TransactionUID") or first(model, TRANSACTION_UID)

    def work() -> None:
        with here.database.transaction() as connection:
            steps.update(connection, uid, model, transaction, actor)

    await _run(here, work)
    return Response()


@router.put("/workitems/{uid}/state", response_class=Response, responses=_done(200), openapi_extra=_BODY)
async def change_state(request: Request, here: Here, actor: Actor, uid: UidPath) -> Response:
    """Claim a workitem with a Transaction UID, or finish it with the same (PS3.18 11.7)."""
    model = await _model(request)

    def work() -> str:
        transaction = first(model, TRANSACTION_UID)
        with here.database.transaction() as connection:
            return steps.change_state(connection, uid, first(model, STATE), transaction, actor)

    return Response(headers=_warned(await _run(here, work)))


@router.post(
    "/workitems/{uid}/cancelrequest",
    status_code=202,
    response_class=Response,
    responses=_done(202),
    openapi_extra=_OPTIONAL_BODY,
)
async def request_cancellation(request: Request, here: Here, actor: Actor, uid: UidPath) -> Response:
    """Ask that a workitem be cancelled; whoever performs it is told (PS3.18 11.8)."""
    model = await _model(request, needed=False)
    requester = _parameter(request, "requestor") or actor

    def work() -> str:
        with here.database.transaction() as connection:
            return steps.request_cancel(connection, uid, model, requester)

    warning = await _run(here, work)
    if warning:
        answer = problem(409, warning)
        answer.headers["Warning"] = f'299 sangloc "{warning}"'
        return answer
    return Response(status_code=202)


@router.post("/workitems/{uid}/subscribers/{aet}", status_code=201, response_class=Response, responses=_done(201))
async def subscribe(request: Request, here: Here, actor: Actor, uid: UidPath, aet: AeTitle) -> Response:
    """Hear of one workitem, of all, or of those that a filter matches: the events come by WebSocket (PS3.18 11.10)."""
    wanted = _filter(request)
    if bool(wanted) != (uid == FILTERED):
        raise InvalidInput("The filtered worklist takes a filter, and nothing else does (PS3.18 11.10)")
    lock = _parameter(request, *_LOCK) or "false"
    if lock not in ("true", "false"):
        raise InvalidInput("deletionlock is true or false")

    def work() -> None:
        with here.database.transaction() as connection:
            one = None if uid in (ALL, FILTERED) else workitems.get(connection, uid)
            subscriptions.subscribe(connection, aet, uid, deletion_lock=lock == "true", wanted=wanted)
            audit.add(connection, actor, "workitem.subscribed", "", {"workitem_uid": uid, "subscriber": aet})
            if one is not None:
                events.tell(connection, one, events.state_report(one.attributes), only=aet)

    await _run(here, work)
    root = origin(request).replace("http", "ws", 1) + request.url.path.partition("/workitems")[0]
    return Response(status_code=201, headers={"Content-Location": f"{root}/subscribers/{aet}"})


@router.delete("/workitems/{uid}/subscribers/{aet}", response_class=Response, responses=_done(200))
def unsubscribe(here: Here, actor: Actor, uid: UidPath, aet: AeTitle) -> Response:
    """Hear no more of one workitem, or of all (PS3.18 11.11)."""
    with here.database.transaction() as connection:
        if not subscriptions.unsubscribe(connection, aet, uid):
            raise NotFound("There is no such subscription")
        audit.add(connection, actor, "workitem.unsubscribed", "", {"workitem_uid": uid, "subscriber": aet})
    return Response()


@router.post("/workitems/{uid}/subscribers/{aet}/suspend", response_class=Response, responses=_done(200))
def suspend(here: Here, actor: Actor, uid: UidPath, aet: AeTitle) -> Response:
    """Hear of the workitems that there are, but not of those that are made from now on (PS3.18 11.12)."""
    if uid not in (ALL, FILTERED):
        raise InvalidInput("Only a subscription to all or to the filtered workitems can be suspended (PS3.18 11.12)")
    with here.database.transaction() as connection:
        if not subscriptions.suspend(connection, aet, uid):
            raise NotFound("There is no such subscription")
        audit.add(connection, actor, "workitem.suspended", "", {"workitem_uid": uid, "subscriber": aet})
    return Response()


async def _run(here: Context, work: Callable[[], _Result]) -> _Result:
    """Do it in a thread, then tell those who wait for workitems."""

    def both() -> _Result:
        result = work()
        with here.database.autocommit() as connection:
            workitems.notify(connection)
        return result

    return await to_thread.run_sync(both)


async def _model(request: Request, *, needed: bool = True) -> Model:
    """The one data set of the body, checked; 400 says what is wrong with it."""
    data = await request.body()
    if not data and not needed:
        return {}
    kind = MediaType.parse(request.headers.get("content-type", "")).name
    if kind not in (_JSON.kind, *_JSON.aliases):
        raise HTTPException(415, f"send {_JSON.kind}")
    try:
        found = objects(data)
        if len(found) != 1:
            raise InvalidDataSet("The body is one data set")
        model = found[0]
        check({tag: one for tag, one in model.items() if tag not in _AFFECTED} if isinstance(model, dict) else model)
    except InvalidDataSet as error:
        raise InvalidInput(str(error)) from None
    assert isinstance(model, dict)
    return model


def _parameter(request: Request, *names: str) -> str:
    """A parameter by any of its names, of several editions; or the whole query where it is nothing but a UID."""
    for name in names:
        if found := request.query_params.get(name):
            return found
    query = request.url.query
    return query if names[0] in ("workitem", "transaction-uid") and query.replace(".", "").isdigit() else ""


def _filter(request: Request) -> list[tuple[str, str]]:
    """The keys of a filtered subscription: as parameters, or together in one named `filter`."""
    pairs = [(name, value) for name, value in request.query_params.multi_items() if name not in _LOCK]
    pairs = [
        pair
        for name, value in pairs
        for pair in (parse_qsl(value, keep_blank_values=True) if name == "filter" else [(name, value)])
    ]
    matching.read_filter(pairs)
    return pairs


def _warned(*texts: str) -> dict[str, str]:
    said = ", ".join(f'299 sangloc "{text}"' for text in texts if text)
    return {"Warning": said} if said else {}
