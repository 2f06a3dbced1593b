"""Bodies of answers made of pieces: bytes, ranges of stored objects, and what is made on the way out.

A stored range goes from file to socket by sendfile where the server can do that, else it is read in parts in a thread.
Whatever waits for disk or database runs in threads of its own and ends before a byte goes to the client, so a slow
client holds neither a thread nor a database connection.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import cast

import anyio
from anyio import to_thread
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from api.context import Context
from api.files import etag, is_known
from api.sendfile import EXTENSION
from storage.errors import NotFound, ObjectStoreUnavailable
from storage.objects import Buffer, ObjectStore

__all__ = ["Body", "Made", "Piece", "Stored", "answer", "boundary_of", "delimited", "multipart", "related", "tag_of"]

_AT_ONCE = 8  # pieces prepared in one visit to a thread; each may hold an open file
_PART_BYTES = 1 << 20
_NO_CACHE = "private, no-cache"


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


@dataclass(frozen=True, slots=True)
class Body:
    """The pieces of a body in order. A sequence can be sent in parts (RFC 9110 14), when all sizes are known."""

    pieces: Iterable[Piece]
    media_type: str

    @property
    def size(self) -> int | None:
        """Bytes of the whole, None when it is not known beforehand."""
        if not isinstance(self.pieces, Sequence) or any(isinstance(piece, Made) for piece in self.pieces):
            return None
        return sum(map(_size, self.pieces))


def tag_of(*parts: object) -> str:
    """An entity tag of what decides about a body."""
    return etag(hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest())


def boundary_of(tag: str) -> str:
    """A boundary that is the same for the same content, so that a broken download can go on."""
    return "sangloc-" + tag.strip('"')[:32]


def multipart(parts: Iterable[tuple[Mapping[str, str], Sequence[Piece]]], kind: str, tag: str) -> Body:
    """multipart/related of parts with their header fields (RFC 2387, PS3.18 8.6.1.2).

    A sequence of parts makes a body whose size is known.
    """
    boundary = boundary_of(tag)
    pieces: Iterable[Piece] = delimited(parts, boundary)
    return Body(list(pieces) if isinstance(parts, Sequence) else pieces, related(kind, boundary))


def related(kind: str, boundary: str) -> str:
    """The media type of a multipart body."""
    return f'multipart/related; type="{kind}"; boundary={boundary}'


def delimited(parts: Iterable[tuple[Mapping[str, str], Sequence[Piece]]], boundary: str) -> Iterator[Piece]:
    """The parts with their delimiters (RFC 2046 5.1.1)."""
    before = ""
    for headers, content in parts:
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        yield f"{before}--{boundary}\r\n{fields}\r\n".encode()
        yield from content
        before = "\r\n"
    yield f"{before}--{boundary}--\r\n".encode()


def answer(
    here: Context,
    request_headers: Mapping[str, str],
    body: Body,
    tag: str,
    *,
    headers: Mapping[str, str] | None = None,
    status: int = 200,
) -> Response:
    """The body, or the part of it that was asked for, or nothing but its tag when the client has it already.

    Answers If-None-Match, Range and If-Range (RFC 9110 13 and 14); several ranges at once get the whole.
    """
    common = {"ETag": tag, "Cache-Control": _NO_CACHE, "Vary": "Accept, Accept-Encoding", **(headers or {})}
    if is_known(request_headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=common)
    size = body.size
    if size is None:
        return _Pieces(here, body.pieces, status, common, body.media_type)
    common["Accept-Ranges"] = "bytes"
    wanted = request_headers.get("range") if request_headers.get("if-range", tag) == tag else None
    span = _span(wanted, size) if status == 200 else None
    if span is None and isinstance(body.pieces, Sequence) and all(isinstance(piece, bytes) for piece in body.pieces):
        return Response(b"".join(cast(Sequence[bytes], body.pieces)), status, common, body.media_type)
    if span is None:
        return _Pieces(here, body.pieces, status, common | {"Content-Length": str(size)}, body.media_type)
    start, end = span
    if start >= end:
        return Response(status_code=416, headers=common | {"Content-Range": f"bytes */{size}"})
    common |= {"Content-Range": f"bytes {start}-{end - 1}/{size}", "Content-Length": str(end - start)}
    return _Pieces(here, list(_cut(body.pieces, start, end)), 206, common, body.media_type)


def _span(wanted: str | None, size: int) -> tuple[int, int] | None:
    """Start and end of the one range of a Range field; None where the whole is to be sent (RFC 9110 14.1.2)."""
    unit, _, numbers = (wanted or "").partition("=")
    first, dash, last = numbers.strip().partition("-")
    if unit.strip().lower() != "bytes" or not dash or "," in numbers:
        return None
    first, last = first.strip(), last.strip()
    if not all(text == "" or (text.isascii() and text.isdigit() and len(text) < 20) for text in (first, last)):
        return None
    if first == "":
        return (max(0, size - int(last)), size) if last else None
    end = min(int(last) + 1, size) if last else size
    return None if last and int(last) < int(first) else (int(first), end)


def _cut(pieces: Iterable[Piece], start: int, end: int) -> Iterator[Piece]:
    """The bytes `start` to `end` of the pieces, whose sizes are known."""
    at = 0
    for piece in pieces:
        size = _size(piece)
        low, high = max(start - at, 0), min(end - at, size)
        at += size
        if low < high:
            assert not isinstance(piece, Made)
            yield piece[low:high] if isinstance(piece, bytes) else Stored(piece.key, piece.offset + low, high - low)


def _size(piece: Piece) -> int:
    assert not isinstance(piece, Made)
    return len(piece) if isinstance(piece, bytes) else piece.size


class _Pieces(StreamingResponse):
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
        ready = await self._next(pieces)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        while ready:
            with contextlib.ExitStack() as stack:
                for one in ready:
                    stack.callback(one.close)
                for one in ready:
                    await one.send(send)
            ready = await self._next(pieces)
        await send({"type": "http.response.body", "body": b""})

    async def _next(self, pieces: Iterator[Piece]) -> list[_Bytes | _File | _Chunks]:
        return await to_thread.run_sync(_prepare, self._here, pieces, self._direct)


class _Bytes:
    """Bytes at hand."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def send(self, send: Send) -> None:
        await send({"type": "http.response.body", "body": self._data, "more_body": True})

    def close(self) -> None:
        """Nothing to do."""


class _File:
    """A range of an open file."""

    def __init__(self, path: str, piece: Stored) -> None:
        self._piece = piece
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    async def send(self, send: Send) -> None:
        offset, count = self._piece.offset, self._piece.size
        await send({"type": EXTENSION, "file": self._file, "offset": offset, "count": count, "more_body": True})

    def close(self) -> None:
        os.close(self._file)


class _Chunks:
    """What a generator gives, step by step in a thread; the first step at once, while it can still fail well."""

    def __init__(self, chunks: Iterator[Buffer], limiter: anyio.CapacityLimiter | None) -> None:
        self._chunks = chunks
        self._limiter = limiter
        self._first = next(chunks, None)

    async def send(self, send: Send) -> None:
        chunk = self._first
        while chunk is not None:
            await send({"type": "http.response.body", "body": bytes(chunk), "more_body": True})
            chunk = await to_thread.run_sync(next, self._chunks, None, limiter=self._limiter)

    def close(self) -> None:
        if isinstance(self._chunks, Generator):
            self._chunks.close()


def _prepare(here: Context, pieces: Iterator[Piece], direct: bool) -> list[_Bytes | _File | _Chunks]:
    """The next pieces, ready to be sent: files opened, the first step made of what is made."""
    ready: list[_Bytes | _File | _Chunks] = []
    try:
        for piece in islice(pieces, _AT_ONCE):
            if isinstance(piece, bytes):
                ready.append(_Bytes(piece))
            elif isinstance(piece, Made):
                ready.append(_Chunks(piece.make(), here.rendering if piece.heavy else None))
                break
            elif direct and (path := here.store.path(piece.key)) is not None:
                ready.append(_File(path, piece))
            else:
                ready.append(_Chunks(_read(here.store, piece), None))
                break
    except BaseException as error:
        for one in ready:
            one.close()
        if isinstance(error, FileNotFoundError | NotFound):
            raise ObjectStoreUnavailable("the object of a row is missing from the object store") from error
        if isinstance(error, OSError):
            raise ObjectStoreUnavailable(f"the object store cannot be read: {error.strerror}") from error
        raise
    return ready


def _read(store: ObjectStore, piece: Stored) -> Iterator[bytes]:
    """The range in parts, for servers and stores without sendfile."""
    left = piece.size
    with closing(store.open(piece.key)) as file:
        file.seek(piece.offset)
        while left > 0:
            chunk = file.read(min(left, _PART_BYTES))
            if not chunk:
                raise ObjectStoreUnavailable("an object is shorter than its row says")
            left -= len(chunk)
            yield chunk
