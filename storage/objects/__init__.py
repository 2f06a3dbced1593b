"""Where the bytes live: one short protocol, two adapters (`directory`, `minio`).

An object is written once under a key that no other object ever had (`keys.new_key`) and never changes. It becomes
visible only through a database row that names its key, so a half-written object is never seen by anybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO, Protocol, Self

__all__ = ["Buffer", "ObjectStore", "ObjectWriter"]

Buffer = bytes | bytearray | memoryview


class ObjectWriter(Protocol):
    """One object on its way in. Leaving the context without `commit` removes what was written."""

    def write(self, chunks: Sequence[Buffer]) -> None:
        """Append the chunks in order; the caller may reuse their memory when this returns.

        Raises:
            ObjectStoreFull: no room left.
            ObjectStoreUnavailable: the store cannot be reached.
        """

    def commit(self) -> None:
        """Return only when the object is durable (fsync of file and folder, or an answered PUT with checksum)."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class ObjectStore(Protocol):
    """Immutable objects by key. Every method raises `ObjectStoreUnavailable` when the store cannot be reached."""

    def writer(self, key: str) -> ObjectWriter:
        """A writer for a new object."""

    def open(self, key: str) -> BinaryIO:
        """The object as a seekable binary file; raises `NotFound`."""

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes `offset` to `offset + length` of the object (to its end without `length`); raises `NotFound`."""

    def size(self, key: str) -> int:
        """Size in bytes; raises `NotFound`."""

    def delete(self, key: str) -> None:
        """Remove the object; a missing object is no error."""

    def keys(self, prefix: str = "") -> Iterator[str]:
        """All keys that start with `prefix`, in no promised order."""

    def url(self, key: str, expires_s: int) -> str | None:
        """A presigned address to read the object for `expires_s` seconds; None where the store has none.

        What it answers says that it is application/dicom.
        """

    def path(self, key: str) -> str | None:
        """The object's path in the local file system (for sendfile); None where the store has none."""

    def check(self) -> None:
        """Raise `ObjectStoreUnavailable` unless the store takes and gives bytes now; creates bucket or folder."""
