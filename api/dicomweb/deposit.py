"""One STOW-RS body on its way into the archive: parts come in pieces, each instance is durable before the next begins.

What is here runs in worker threads, one call at a time for each body, and holds no more of an instance than its head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from api.dicomweb.multipart import Event, InvalidMultipart, PartHead
from api.dicomweb.storeanswer import Answer
from storage.errors import InvalidInput

if TYPE_CHECKING:
    from pacs.ingest import Ingest

__all__ = ["Deposit", "Destination", "Parts", "Reader", "Single", "Sink", "TooManyParts"]


class TooManyParts(InvalidInput):
    """The body has more parts than are taken at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where the instances of one request go, and who sends them."""

    ingest: Ingest
    answer: Answer
    study_uid: str = ""  # of the address; '' takes every study
    source_aet: str
    source_address: str
    allow_private: bool = False  # private SOP classes too


class Sink(Protocol):
    """One part on its way in."""

    def write(self, piece: memoryview) -> None:
        """Take the next piece of its content."""

    def end(self) -> None:
        """It is complete."""

    def abandon(self) -> None:
        """It will not be complete; may be called after `end` too."""


class Parts(Protocol):
    """What the parts of one kind of body become."""

    def open(self, head: PartHead) -> Sink:
        """A sink for a part that begins."""

    def finish(self) -> None:
        """The body is complete."""

    def close(self) -> None:
        """Let go of what was kept; may be called twice."""


class Reader(Protocol):
    """A body as events: see `api.dicomweb.multipart.Multipart`."""

    def feed(self, data: bytes) -> list[Event]:
        """What the next bytes bring."""

    def finish(self) -> None:
        """The body has ended; raises `InvalidMultipart` where it is not complete."""


class Single:
    """A body that is one part, without boundaries."""

    def __init__(self, content_type: str) -> None:
        self._events: list[Event] = [PartHead({"content-type": content_type})]

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes."""
        events, self._events = self._events, []
        return [*events, memoryview(data)]

    def finish(self) -> None:
        """HTTP says where such a body ends."""


class Deposit:
    """Feeds one body to its parts. `answer` has what became of each instance, also after an error."""

    def __init__(self, reader: Reader, parts: Parts, answer: Answer, *, max_parts: int) -> None:
        self._reader, self._parts, self._answer, self._max_parts = reader, parts, answer, max_parts
        self._sink: Sink | None = None
        self._count = 0
        self.closed = False

    def feed(self, chunks: Sequence[bytes]) -> None:
        """Take the next bytes of the body.

        Raises:
            InvalidMultipart: the body cannot be read on.
            TooManyParts: more than `max_parts`.
        """
        for chunk in chunks:
            for event in self._reader.feed(chunk):
                if isinstance(event, PartHead):
                    self._begin(event)
                elif isinstance(event, memoryview):
                    assert self._sink is not None
                    self._sink.write(event)
                else:
                    self._end()

    def finish(self) -> None:
        """The body is complete; raises `InvalidMultipart` where it is not."""
        if isinstance(self._reader, Single):
            self._end()
        self._reader.finish()
        if not self._count:
            raise InvalidMultipart("The body has no parts")
        self._parts.finish()

    def close(self) -> None:
        """Let go of everything; an instance that is not complete is dropped."""
        if self._sink is not None:
            self._sink.abandon()
            self._sink = None
        self._parts.close()
        self.closed = True

    def _begin(self, head: PartHead) -> None:
        self._count += 1
        if self._count > self._max_parts:
            raise TooManyParts(f"A request may have {self._max_parts} parts")
        self._sink = self._parts.open(head)

    def _end(self) -> None:
        if self._sink is not None:
            sink, self._sink = self._sink, None
            try:
                sink.end()
            finally:
                sink.abandon()
