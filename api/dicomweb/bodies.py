"""Bodies of answers made of pieces, single or multipart; whole, in part, or not at all when the client has them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from starlette.responses import Response

from api.context import Context
from api.dicomweb.pieces import Made, Piece, PiecesResponse, Stored
from api.files import etag, is_known

__all__ = ["Body", "Made", "Piece", "Stored", "answer", "boundary_of", "delimited", "multipart", "related", "tag_of"]

_NO_CACHE = "private, no-cache"


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
        return PiecesResponse(here, body.pieces, status, common, body.media_type)
    common["Accept-Ranges"] = "bytes"
    wanted = request_headers.get("range") if request_headers.get("if-range", tag) == tag else None
    span = _span(wanted, size) if status == 200 else None
    if span is None and isinstance(body.pieces, Sequence) and all(isinstance(piece, bytes) for piece in body.pieces):
        return Response(b"".join(cast(Sequence[bytes], body.pieces)), status, common, body.media_type)
    if span is None:
        return PiecesResponse(here, body.pieces, status, common | {"Content-Length": str(size)}, body.media_type)
    start, end = span
    if start >= end:
        return Response(status_code=416, headers=common | {"Content-Range": f"bytes */{size}"})
    common |= {"Content-Range": f"bytes {start}-{end - 1}/{size}", "Content-Length": str(end - start)}
    return PiecesResponse(here, list(_cut(body.pieces, start, end)), 206, common, body.media_type)


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
