"""multipart/related bodies, read piece by piece: a part of any size costs no memory (RFC 2046 5.1, RFC 2387).

The boundaries are found by python-multipart's low-level parser, which knows nothing of forms; here are what it lacks:
the preamble, the Content-Type of a related body, headers by name, and an error for a body that ends too early.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from python_multipart.exceptions import ParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from storage.errors import InvalidInput

__all__ = ["PART_END", "Event", "InvalidMultipart", "MediaType", "Multipart", "PartHead"]

_MAX_BOUNDARY_CHARACTERS = 70  # RFC 2046 5.1.1
_BOUNDARY_CHARACTERS = frozenset(
    b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789'()+_,-./:=? !#$%&*;@^`|~{}[]<>"
)  # those of RFC 2046, and what real clients take besides
_MAX_PREAMBLE_BYTES = 64 << 10
_MAX_HEADERS = 16  # of one part
_MAX_HEADER_BYTES = 4 << 10  # of one header line


class InvalidMultipart(InvalidInput):
    """The multipart body cannot be read."""


@dataclass(frozen=True, slots=True)
class MediaType:
    """A Content-Type: the type in lower case, and its parameters with names in lower case and quotes removed."""

    name: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, header: str) -> MediaType:
        """Read a header's value; one that is no media type gives a name that nothing equals."""
        name, parameters = parse_options_header(header)
        return cls(
            name.decode("latin-1").strip().lower(),
            {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in parameters.items()},
        )

    def boundary(self) -> bytes:
        """The `boundary` parameter; raises `InvalidMultipart` where it is missing or breaks RFC 2046 5.1.1."""
        boundary = self.parameters.get("boundary", "").encode("latin-1")
        if not 0 < len(boundary) <= _MAX_BOUNDARY_CHARACTERS or boundary.endswith(b" "):
            raise InvalidMultipart("The boundary of the multipart body is missing or too long (RFC 2046 5.1.1)")
        if not _BOUNDARY_CHARACTERS.issuperset(boundary):
            raise InvalidMultipart("The boundary of the multipart body has characters that it may not have")
        return boundary


@dataclass(frozen=True, slots=True)
class PartHead:
    """The headers of a part that begins; names in lower case, the first value where a name comes twice."""

    headers: Mapping[str, str]

    @property
    def media_type(self) -> MediaType:
        """Its Content-Type; RFC 2046 5.1 takes text for granted, which nothing here is."""
        return MediaType.parse(self.headers.get("content-type", ""))

    @property
    def location(self) -> str:
        """Its Content-Location, '' without one."""
        return self.headers.get("content-location", "")


class _PartEnd:
    def __repr__(self) -> str:
        return "PART_END"


PART_END: Final = _PartEnd()
Event: TypeAlias = PartHead | memoryview | _PartEnd
"""A part is a `PartHead`, then pieces of its content in order, then `PART_END`."""


class Multipart:
    """Reads one body. Feed it all pieces, then `finish`; not for use in several threads at once."""

    def __init__(self, boundary: bytes) -> None:
        self._events: list[Event] = []
        self._delimiter = b"--" + boundary
        self._preamble: bytes | None = b""  # None: behind it
        self._skipped = 0
        self._headers: dict[str, str] = {}
        self._name = self._value = b""
        self.complete = False  # the closing boundary was seen
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._field,
                "on_header_value": self._content,
                "on_header_end": self._header,
                "on_headers_finished": self._head,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._close,
            },
            max_header_count=_MAX_HEADERS,
            max_header_size=_MAX_HEADER_BYTES,
        )

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes; what they bring, in order. The views are of `data` or of bytes that are kept.

        What follows the closing boundary is passed over (RFC 2046 5.1.1: the epilogue).

        Raises:
            InvalidMultipart: boundary lines or headers are broken, or too long.
        """
        if self.complete:
            return []
        if self._preamble is not None:
            data = self._skip_preamble(self._preamble + data)
        try:
            self._parser.write(data)
        except ParseError as error:
            raise InvalidMultipart(f"The multipart body cannot be read: {error}") from error
        events, self._events = self._events, []
        return events

    def finish(self) -> None:
        """The body has ended; raises `InvalidMultipart` where the closing boundary never came."""
        if not self.complete:
            raise InvalidMultipart("The multipart body ends without its closing boundary")

    def _skip_preamble(self, data: bytes) -> bytes:
        """What starts with the first boundary line, b"" while it has not come."""
        bare = self._skipped == 0 and data.startswith(self._delimiter)  # at the very start without a line break
        at = 0 if bare else data.find(b"\r\n" + self._delimiter)
        keep = len(self._delimiter) + 1
        skipped = at if at >= 0 else max(0, len(data) - keep)
        self._skipped += skipped
        if self._skipped > _MAX_PREAMBLE_BYTES:
            raise InvalidMultipart("The first boundary of the multipart body is missing")
        if at < 0:
            self._preamble = data[skipped:]
            return b""
        self._preamble = None
        return data if bare else data[at + 2 :]

    def _begin(self) -> None:
        self._headers = {}
        self._name = self._value = b""

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _content(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header(self) -> None:
        self._headers.setdefault(self._name.decode("latin-1").lower(), self._value.decode("latin-1").strip())
        self._name = self._value = b""

    def _head(self) -> None:
        self._events.append(PartHead(self._headers))

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(memoryview(data)[start:end])

    def _end(self) -> None:
        self._events.append(PART_END)

    def _close(self) -> None:
        self.complete = True
