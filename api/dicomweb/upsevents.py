"""The event reports of UPS-RS over WebSocket (PS3.18 8.10.5, 11.13): each is kept until it was sent."""

from __future__ import annotations

import asyncio

import orjson
from anyio import to_thread
from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from api.context import Context, actor_of
from api.dicomweb.ups import AeTitle
from api.problems import problem
from storage import subscriptions
from storage.errors import Unavailable

__all__ = ["router"]

router = APIRouter()

_POLL_S = 15.0  # a notification that was lost delays a report by so much
_REPLACED, _GOING_AWAY, _TRY_AGAIN = 4000, 1001, 1013


@router.websocket("/subscribers/{aet}")
async def channel(socket: WebSocket, aet: AeTitle) -> None:
    """Send the reports of one subscriber as they come; what he says is not listened to."""
    here: Context = socket.app.state.context
    scheme, _, secret = socket.headers.get("authorization", "").partition(" ")
    if actor_of(here.config, secret.strip() if scheme.lower() == "bearer" else "") is None:
        await socket.send_denial_response(problem(401, "a bearer token of this server is needed"))
        return
    if here.reports.closed or here.reports.clients >= here.config.max_event_clients:
        await socket.send_denial_response(problem(503, "no more event channels can be opened"))
        return
    await socket.accept()
    signal = here.reports.open(aet)
    listening = asyncio.create_task(_listen(socket))
    try:
        await _serve(socket, here, aet, signal, listening)
    except WebSocketDisconnect:
        pass
    except Unavailable:
        await socket.close(_TRY_AGAIN, "the database is away")
    finally:
        listening.cancel()
        here.reports.leave(aet, signal)


async def _serve(
    socket: WebSocket, here: Context, aet: str, signal: asyncio.Event, listening: asyncio.Task[None]
) -> None:
    while not listening.done():
        signal.clear()
        if here.reports.closed:
            await socket.close(_GOING_AWAY)
            return
        if not here.reports.is_current(aet, signal):
            await socket.close(_REPLACED, "another channel was opened")
            return
        while found := await to_thread.run_sync(_waiting, here, aet):
            for _, report in found:
                async with asyncio.timeout(here.config.send_timeout_s):
                    await socket.send_text(orjson.dumps(report).decode())
            await to_thread.run_sync(_sent, here, [number for number, _ in found])
        waiting = asyncio.create_task(signal.wait())
        await asyncio.wait({waiting, listening}, timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()


async def _listen(socket: WebSocket) -> None:
    """Read until the other side closes."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


def _waiting(here: Context, aet: str) -> list[tuple[int, dict[str, object]]]:
    with here.database.autocommit() as connection:
        return subscriptions.waiting(connection, aet)


def _sent(here: Context, numbers: list[int]) -> None:
    with here.database.autocommit() as connection:
        subscriptions.sent(connection, numbers)
