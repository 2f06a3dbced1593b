"""A request body on its way to a worker thread: read while the thread works, never more than two batches in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from anyio import CapacityLimiter, to_thread
from starlette.types import Receive

__all__ = ["ClientGone", "pump"]

_BATCH_BYTES = 1 << 20


class ClientGone(Exception):  # noqa: N818 - nobody is left to be told of it
    """The client went away before its body was complete."""


async def pump(
    receive: Receive, consume: Callable[[Sequence[bytes], bool], None], limiter: CapacityLimiter | None
) -> None:
    """Call `consume(chunks, last)` in a worker thread with what comes in, in order, one call at a time.

    A client that is slower than the disk costs no thread while it is silent; one that is faster is not read from.

    Raises:
        ClientGone: it hung up before the end.
    """
    running: asyncio.Task[None] | None = None
    try:
        async for batch, last in _batches(receive):
            if running is not None:
                await running
            running = asyncio.create_task(to_thread.run_sync(consume, batch, last, limiter=limiter))
        if running is not None:
            await running
    finally:
        if running is not None and not running.done():  # what it works on must not be closed under its hands
            with contextlib.suppress(Exception):
                await running


async def _batches(receive: Receive) -> AsyncIterator[tuple[list[bytes], bool]]:
    batch: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        if chunk := message.get("body", b""):
            batch.append(chunk)
            size += len(chunk)
        last = not message.get("more_body", False)
        if last or size >= _BATCH_BYTES:
            yield batch, last
            batch, size = [], 0
        if last:
            return
