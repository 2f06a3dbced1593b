"""Stored objects on their way out, in parts, so that a large one costs no memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import BinaryIO

from anyio import to_thread
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from storage.errors import NotFound, ObjectStoreUnavailable
from storage.objects import ObjectStore

__all__ = ["DICOM", "etag", "is_known", "object_response", "open_object"]

DICOM = "application/dicom"
_PART_BYTES = 1 << 20  # 2.5 GB/s through uvicorn; 64 kB parts or synchronous generators are three times slower


def open_object(store: ObjectStore, key: str) -> BinaryIO:
    """The object of a row; one that is missing is a fault of the store, not of who asks."""
    try:
        return store.open(key)
    except NotFound as error:
        raise ObjectStoreUnavailable("the object of this row is missing from the object store") from error


def object_response(store: ObjectStore, key: str, *, size: int, digest: str, name: str) -> Response:
    """The whole object as a Part 10 file; `digest` is of its data set and names this content for ever."""
    file = open_object(store, key)
    headers = {
        "Content-Length": str(size),
        "Content-Disposition": f'attachment; filename="{name}.dcm"',
        "ETag": etag(digest),
        "Cache-Control": "private, no-cache",
    }
    return _FileResponse(file, headers)


def etag(digest: str) -> str:
    """The digest as an entity tag."""
    return f'"{digest}"'


def is_known(if_none_match: str | None, tag: str) -> bool:
    """Whether the client has it already (RFC 9110 13.1.2)."""
    return if_none_match is not None and (if_none_match.strip() == "*" or tag in if_none_match)


class _FileResponse(StreamingResponse):
    def __init__(self, file: BinaryIO, headers: dict[str, str]) -> None:
        super().__init__(_parts(file), headers=headers, media_type=DICOM)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:  # also when the client goes away and nobody finishes the generator
            await super().__call__(scope, receive, send)


async def _parts(file: BinaryIO) -> AsyncIterator[bytes]:
    while part := await to_thread.run_sync(file.read, _PART_BYTES):
        yield part
