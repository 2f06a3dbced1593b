"""Pieces of bodies on their way out: bytes, ranges of stored objects, and what is made as it goes.

A stored range goes from file to socket by sendfile where the server can do that, else it is read in parts in a thread.
Whatever waits for disk, database or a decoder runs in threads and has ended before bytes go to the client, so a slow
client holds neither a thread nor a database connection. What is decoded or encoded waits for the client in a file, not
in memory.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import anyio
from anyio import to_thread
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.context import Context
from api.sendfile import EXTENSION
from storage.errors import NotFound, ObjectStoreUnavailable
from storage.objects import Buffer, ObjectStore

__all__ = ["Made", "Piece", "PiecesResponse", "Stored"]

_AT_ONCE = 8  # pieces prepared in one visit to a thread; each may hold an open file
_PART_BYTES = 1 << 20
_SPOOL_BYTES = 32 << 20  # made in one visit: most images as a whole, so that their decoder's memory is free again


@dataclass(frozen=True, slots=True)
class Stored:
    """A range of a stored object."""

    key: str
    offset: int
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Made:
    """Bytes that are made on the way out; how many is known when they end."""

    make: Callable[[], Iterator[Buffer]]
    heavy: bool = False  # decodes or encodes pixels: waits its turn among the pictures


Piece = bytes | Stored | Made


class PiecesResponse(StreamingResponse):
    """Sends pieces one after another; stops when the client goes away."""

    def __init__(
        self, here: Context, pieces: Iterable[Piece], status: int, headers: Mapping[str, str], media_type: str
    ) -> None:
        super().__init__((), status, headers, media_type)
        self._here = here
        self._pieces = pieces
        self._head = False
        self._direct = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer; a failure before its first byte becomes a problem."""
        self._head = scope["method"] == "HEAD"
        self._direct = EXTENSION in scope.get("extensions", {})
        await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        """The whole answer, in the task that ends when the client goes away."""
        pieces = iter(() if self._head else self._pieces)
        started = last = False
        while not last:
            ready, last = await to_thread.run_sync(_prepare, self._here, pieces, self._direct)
            with contextlib.ExitStack() as stack:
                for one in ready:
                    stack.callback(one.close)
                    await one.begin()
                if not started:
                    headers = self.raw_headers
                    await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
                    started = True
                for one in ready:
                    await one.send(send)
        await send({"type": "http.response.body", "body": b""})


class _Ready(Protocol):
    """A piece at hand."""

    async def begin(self) -> None:
        """Do what may fail, while the client can still be told."""

    async def send(self, send: Send) -> None:
        """Send it."""

    def close(self) -> None:
        """Let go of what it holds."""


class _Bytes:
    """Bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def begin(self) -> None:
        pass

    async def send(self, send: Send) -> None:
        await send({"type": "http.response.body", "body": self._data, "more_body": True})

    def close(self) -> None:
        pass


class _File:
    """A range of an open file."""

    def __init__(self, path: str, piece: Stored) -> None:
        self._piece = piece
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    async def begin(self) -> None:
        pass

    async def send(self, send: Send) -> None:
        await send(_part_of(self._file, self._piece.offset, self._piece.size))

    def close(self) -> None:
        os.close(self._file)


class _Chunks:
    """What a generator gives, step by step in a thread."""

    def __init__(self, chunks: Iterator[Buffer]) -> None:
        self._chunks = chunks
        self._next: Buffer | None = None

    async def begin(self) -> None:
        self._next = await to_thread.run_sync(next, self._chunks, None)

    async def send(self, send: Send) -> None:
        while self._next is not None:
            await send({"type": "http.response.body", "body": bytes(self._next), "more_body": True})
            await self.begin()

    def close(self) -> None:
        _close(self._chunks)


class _Spooled:
    """What a decoder gives, in its turn among the pictures, kept in a file without a name until the client takes it."""

    def __init__(self, chunks: Iterator[Buffer], limiter: anyio.CapacityLimiter, *, direct: bool) -> None:
        self._chunks = chunks
        self._limiter = limiter
        self._direct = direct
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed in close
        self._size = 0

    async def begin(self) -> None:
        self._size = await to_thread.run_sync(self._fill, limiter=self._limiter)

    async def send(self, send: Send) -> None:
        while self._size:
            if self._direct:
                await send(_part_of(self._file.fileno(), 0, self._size))
            for offset in () if self._direct else range(0, self._size, _PART_BYTES):
                count = min(_PART_BYTES, self._size - offset)
                body = await to_thread.run_sync(os.pread, self._file.fileno(), count, offset)
                await send({"type": "http.response.body", "body": body, "more_body": True})
            await self.begin()

    def close(self) -> None:
        self._file.close()
        _close(self._chunks)

    def _fill(self) -> int:
        self._file.seek(0)
        size = 0
        for chunk in self._chunks:
            size += _write(self._file.fileno(), chunk)
            if size >= _SPOOL_BYTES:
                break
        return size


def _part_of(file: int, offset: int, count: int) -> dict[str, object]:
    return {"type": EXTENSION, "file": file, "offset": offset, "count": count, "more_body": True}


def _write(file: int, chunk: Buffer) -> int:
    left = memoryview(chunk).cast("B")
    while left:
        left = left[os.write(file, left) :]
    return memoryview(chunk).nbytes


def _close(chunks: Iterator[Buffer]) -> None:
    if isinstance(chunks, Generator):
        chunks.close()


def _prepare(here: Context, pieces: Iterator[Piece], direct: bool) -> tuple[list[_Ready], bool]:
    """The next pieces, files opened, and whether they are the last; what is made ends a list."""
    ready: list[_Ready] = []
    try:
        for piece in islice(pieces, _AT_ONCE):
            if isinstance(piece, bytes):
                ready.append(_Bytes(piece))
            elif isinstance(piece, Stored) and direct and (path := here.store.path(piece.key)) is not None:
                ready.append(_File(path, piece))
            else:
                ready.append(_made(here, piece, direct))
                return ready, False
    except BaseException as error:
        for one in ready:
            one.close()
        if isinstance(error, FileNotFoundError):
            raise ObjectStoreUnavailable("the object of a row is missing from the object store") from error
        if isinstance(error, OSError):
            raise ObjectStoreUnavailable(f"the object store cannot be read: {error.strerror}") from error
        raise
    return ready, len(ready) < _AT_ONCE


def _made(here: Context, piece: Stored | Made, direct: bool) -> _Ready:
    if isinstance(piece, Stored):
        return _Chunks(_read(here.store, piece))
    if piece.heavy:
        return _Spooled(_found(piece.make()), here.rendering, direct=direct)
    return _Chunks(_found(piece.make()))


def _found(chunks: Iterator[Buffer]) -> Iterator[Buffer]:
    """The same; an object that is missing is a fault of the store, not of who asks."""
    try:
        yield from chunks
    except NotFound as error:
        raise ObjectStoreUnavailable("the object of a row is missing from the object store") from error


def _read(store: ObjectStore, piece: Stored) -> Iterator[bytes]:
    """The range in parts, for servers and stores without sendfile."""
    left = piece.size
    try:
        source = store.open(piece.key)
    except NotFound as error:
        raise ObjectStoreUnavailable("the object of a row is missing from the object store") from error
    with closing(source) as file:
        file.seek(piece.offset)
        while left > 0:
            chunk = file.read(min(left, _PART_BYTES))
            if not chunk:
                raise ObjectStoreUnavailable("an object is shorter than its row says")
            left -= len(chunk)
            yield chunk
