"""One stored object on its way out: as it is stored where it can be, corrected and transcoded where it must be.

What is stored never changes. When the receiver takes the stored transfer syntax and the study has no corrections, the
stored bytes go out untouched, and a caller may hand the file itself to the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pacs.part10 import file_meta
from pacs.transcoding import can_make, transcoded
from storage.errors import NotTranscodable, ObjectStoreUnavailable
from storage.retrieval import StoredInstance

if TYPE_CHECKING:
    from storage.objects import Buffer, ObjectStore

__all__ = ["ANY", "NotTranscodable", "Outgoing", "open_outgoing"]

ANY = "*"
"""In place of a transfer syntax: whatever it is stored in."""

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One object in the form in which it goes out; `chunks` and `part10` may be called more than once."""

    store: ObjectStore
    instance: StoredInstance
    transfer_syntax: str
    untouched: bool  # the stored bytes: `instance.object_key` can be sent as it is
    _made: Callable[[], Iterator[Buffer]] | None = None

    @property
    def size(self) -> int | None:
        """Bytes of the data set where they are known beforehand."""
        return self.instance.dataset_size if self.untouched else None

    def chunks(self) -> Iterator[Buffer]:
        """The data set (without preamble and file meta) in pieces of about 1 MB.

        Raises:
            NotTranscodable: it turned out while it was decoded.
            ObjectStoreUnavailable: the store is away, or the object is shorter than its row says.
            NotFound: the object is gone.
        """
        if self._made is not None:
            return self._made()
        return _stored(self.store, self.instance, self.instance.dataset_offset)

    def part10(self) -> Iterator[Buffer]:
        """The whole file: preamble, file meta and data set. Errors as in `chunks`."""
        if self._made is None:
            return _stored(self.store, self.instance, 0)
        return self._with_meta(self._made())

    def _with_meta(self, data_set: Iterator[Buffer]) -> Iterator[Buffer]:
        yield file_meta(self.instance.sop_class, self.instance.sop_uid, self.transfer_syntax)
        yield from data_set


def open_outgoing(store: ObjectStore, instance: StoredInstance, accepted: Sequence[str]) -> Outgoing:
    """The object in the form that suits the receiver best.

    Args:
        store: where its bytes are.
        instance: which one.
        accepted: transfer syntax UIDs that the receiver takes, the one it likes best first; `ANY` takes what is stored.

    Returns: the stored form if it is accepted, else the first accepted form that can be made.

    Raises:
        NotTranscodable: none of them can be made.
    """
    stored = instance.transfer_syntax
    if ANY in accepted or stored in accepted:
        if not instance.corrections:
            return Outgoing(store, instance, stored, untouched=True)
        return _made(store, instance, stored)
    for target in accepted:
        if can_make(stored, target):
            return _made(store, instance, target)
    raise NotTranscodable(f"Objects in {stored} cannot be sent in any transfer syntax that the receiver takes")


def _made(store: ObjectStore, instance: StoredInstance, target: str) -> Outgoing:
    def make() -> Iterator[Buffer]:
        return transcoded(store, instance, target, instance.corrections)

    return Outgoing(store, instance, target, untouched=False, _made=make)


def _stored(store: ObjectStore, instance: StoredInstance, start: int) -> Iterator[Buffer]:
    left = instance.object_size - start
    with closing(store.open(instance.object_key)) as file:
        file.seek(start)
        while left > 0:
            chunk = file.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise ObjectStoreUnavailable(f"The object of {instance.sop_uid} is shorter than its row says")
            left -= len(chunk)
            yield chunk
