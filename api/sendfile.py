"""Files to sockets without a copy through Python: ASGI's zero-copy extension for uvicorn's httptools protocol.

An application sends `{"type": "http.response.zerocopysend", "file": ..., "offset": ..., "count": ..., "more_body": ..}`
in place of `http.response.body` when the scope's extensions name it; plain body messages may come before, between and
after, and chunked encoding is kept. The extension is offered on plain TCP only; without it applications read files.

sendfile(2) runs in a few threads, because it waits for the disk; it never waits there for a client: a socket that takes
nothing for some milliseconds goes back to the event loop. So slow clients hold neither threads nor memory.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from typing import Any, Final

import anyio
from anyio import to_thread
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

__all__ = ["EXTENSION", "ZeroCopyCycle", "offered"]

EXTENSION: Final = "http.response.zerocopysend"

_THREADS = 8  # in sendfile(2) at the same time
_AT_ONCE_BYTES = 8 << 20  # of one system call
_BURST_S = 0.1  # a thread stays with one client at most so long, while others wait
_LINGER_S = 0.01  # a thread waits so long for a socket: a hop through the event loop costs a fast client more
_DRAINED_BYTES = 1 << 20  # a client must take so much, or the rest, within the time that the message allows
_STALL_S = 30.0

_limiters: dict[asyncio.AbstractEventLoop, anyio.CapacityLimiter] = {}


def offered(transport: asyncio.Transport) -> bool:
    """Whether the bytes of a file may go to this connection's socket as they are."""
    return transport.get_extra_info("sslcontext") is None and transport.get_extra_info("socket") is not None


class ZeroCopyCycle(RequestResponseCycle):
    """One request and its answer, which may have parts of files in it."""

    async def send(self, message: Any) -> None:
        """As uvicorn's, and `http.response.zerocopysend`; its key `stall_s` bounds how long a client may take nothing.

        Raises:
            TimeoutError: the client took less than 1 MB (or the rest) in `stall_s` seconds.
            OSError: the file ended before `count` bytes, or cannot be read.
        """
        if message["type"] != EXTENSION:
            await super().send(message)
            return
        await self._part(message)
        if not message.get("more_body", False):
            await super().send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _part(self, message: Any) -> None:
        offset, count = message["offset"], message["count"]
        if self.scope["method"] == "HEAD" or count == 0:
            return
        if self.chunked_encoding:
            self.transport.write(b"%x\r\n" % count)
        else:
            if count > self.expected_content_length:
                raise RuntimeError("Response content longer than Content-Length")
            self.expected_content_length -= count
        self.transport.set_write_buffer_limits(
            0
        )  # what was written before must be gone, and `drain` must wait for that
        try:
            await self.flow.drain()
            if self.disconnected or self.transport.is_closing():
                self.disconnected = True
                return
            await _send(self.transport, message["file"], offset, count, message.get("stall_s", _STALL_S))
        except (BrokenPipeError, ConnectionResetError):
            self.disconnected = True
            return
        finally:
            if not self.transport.is_closing():
                self.transport.set_write_buffer_limits()
        if self.chunked_encoding:
            self.transport.write(b"\r\n")


async def _send(transport: asyncio.Transport, file: int, offset: int, count: int, stall_s: float) -> None:
    """Move bytes until all are sent, by a second descriptor, so that the event loop's own watch is left alone."""
    loop = asyncio.get_running_loop()
    limiter = _limiters.get(loop)
    if limiter is None:
        _limiters.clear()  # of a loop that has ended
        limiter = _limiters[loop] = anyio.CapacityLimiter(_THREADS)
    descriptor = os.dup(transport.get_extra_info("socket").fileno())
    try:
        end, mark, deadline = offset + count, offset, loop.time() + stall_s
        while True:
            offset += await to_thread.run_sync(_burst, descriptor, file, offset, end - offset, limiter=limiter)
            if offset == end:
                return
            if offset - mark >= _DRAINED_BYTES:
                mark, deadline = offset, loop.time() + stall_s
            async with asyncio.timeout_at(deadline):
                await _writable(loop, descriptor)
    finally:
        os.close(descriptor)


def _burst(descriptor: int, file: int, offset: int, count: int) -> int:
    """Bytes that the socket took until it was full for a moment, or until others should have their turn."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    sent, until = 0, time.monotonic() + _BURST_S
    while sent < count and time.monotonic() < until:
        try:
            moved = os.sendfile(descriptor, file, offset + sent, min(count - sent, _AT_ONCE_BYTES))
        except BlockingIOError:
            if not poll.poll(_LINGER_S * 1000):
                break
            continue
        if moved == 0:
            raise OSError("the file ended early")
        sent += moved
    return sent


async def _writable(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    ready = asyncio.Event()
    loop.add_writer(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(descriptor)
