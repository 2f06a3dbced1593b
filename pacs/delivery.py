"""One line to another archive: instances out by C-STORE or STOW-RS, a result for each, no faster than allowed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from pacs.dimse.sender import Kind, Sender
from pacs.outgoing import Outgoing, open_outgoing
from storage.errors import InvalidInput, NotFound, NotTranscodable, PeerUnavailable

if TYPE_CHECKING:
    from pacs.dimse.policy import CallerPolicy
    from storage.objects import Buffer, ObjectStore
    from storage.peers import Peer
    from storage.retrieval import StoredInstance

__all__ = ["DimseLine", "Item", "Line", "Result", "StoppedError", "Throttle"]

_SLICE_BYTES = (4 << 10, 64 << 10)
_SLICES_A_SECOND = 4


class StoppedError(Exception):
    """The process stops, or somebody else does this work now; what was under way is sent again."""


class Item(NamedTuple):
    """One instance of a queue."""

    queue_pk: int
    instance: StoredInstance


class Result(NamedTuple):
    """What the other side said of an item: '' when it has it, else why not."""

    item: Item
    error: str


class Line(Protocol):
    """A connection; a context manager, used by one thread.

    Raises (every method):
        PeerUnavailable: the other side is away, or can take nothing now: nothing is known of what was being sent.
        ObjectStoreUnavailable: an object cannot be read.
        StoppedError: see there.
    """

    most_items: int  # in one `send`
    most_bytes: int

    def send(self, items: Sequence[Item]) -> list[Result]:
        """Send the items; one result for each."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None: ...


class Throttle:
    """A pace for all lines of a destination together; `bytes_per_s` may change at any time."""

    def __init__(self, stop: threading.Event, bytes_per_s: int | None = None) -> None:
        self.bytes_per_s = bytes_per_s
        self._stop = stop
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, count: int) -> None:
        """Wait until `count` bytes may go. Raises `StoppedError`."""
        wait_s = 0.0
        if rate := self.bytes_per_s:
            with self._lock:
                now = time.monotonic()
                starts = max(self._free_at, now)
                self._free_at = starts + count / rate
                wait_s = starts - now
        if self._stop.wait(wait_s) if wait_s else self._stop.is_set():
            raise StoppedError

    def through(self, chunks: Iterator[Buffer]) -> Iterator[Buffer]:
        """The same bytes, no faster than allowed, in pieces of a quarter of a second."""
        for chunk in chunks:
            rate = self.bytes_per_s
            least, most = _SLICE_BYTES
            step = max(least, min(most, rate // _SLICES_A_SECOND)) if rate else max(1, len(chunk))
            view = memoryview(chunk)
            for at in range(0, len(view), step):
                piece = view[at : at + step]
                self.take(len(piece))
                yield piece


@dataclass(frozen=True, slots=True)
class _Slowed(Outgoing):
    """A stored form that is not read faster than allowed."""

    @property
    def size(self) -> int | None:
        return self.instance.dataset_size


class DimseLine:
    """C-STORE on one association, one object at a time (PS3.4 B)."""

    most_items = 1
    most_bytes = 0

    def __init__(
        self, peer: Peer, policy: CallerPolicy, store: ObjectStore, throttle: Throttle, kinds: Sequence[Kind]
    ) -> None:
        self._peer, self._store, self._throttle = peer, store, throttle
        self._sender = Sender(peer, policy, [*kinds, _VERIFICATION], tick=lambda: throttle.take(0))

    def __enter__(self) -> Self:
        self._sender.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._sender.__exit__(kind, *rest)

    def send(self, items: Sequence[Item]) -> list[Result]:
        """Store them one after the other."""
        return [Result(item, self._send(item.instance)) for item in items]

    def _send(self, instance: StoredInstance) -> str:
        try:
            outgoing = open_outgoing(self._store, instance, self._sender.accepted(instance.sop_class))
            self._throttle.take(0 if outgoing.untouched else instance.dataset_size)
            status = self._sender.store(self._slowed(outgoing))
        except (InvalidInput, NotFound, NotTranscodable) as error:
            return str(error)
        if status == 0 or status & 0xF000 == 0xB000:  # a warning: it is stored
            return ""
        if status & 0xFF00 == 0xA700:  # out of resources (PS3.4 B.2.3): no fault of this object
            raise PeerUnavailable(f"{self._peer.name} is out of resources: status {status:04X}")
        return f"refused with status {status:04X}"

    def _slowed(self, outgoing: Outgoing) -> Outgoing:
        if self._throttle.bytes_per_s is None or not outgoing.untouched:
            return outgoing

        def read() -> Iterator[Buffer]:
            return self._throttle.through(outgoing.chunks())

        return _Slowed(outgoing.store, outgoing.instance, outgoing.transfer_syntax, untouched=False, _made=read)


_VERIFICATION: Kind = ("1.2.840.10008.1.1", "1.2.840.10008.1.2")
"""Proposed as well, so that a peer that takes none of the objects refuses them one by one, and not the association."""
