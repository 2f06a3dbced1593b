"""Messages out of a stream of bytes: MLLP release 1, as forgiving as senders need and bounded."""

from __future__ import annotations

__all__ = ["Framer", "FramingError", "framed"]

_START, _END, _CR = b"\x0b", b"\x1c", b"\r"
_MAX_STRAY_BYTES = 4096  # between two messages: whoever sends more does not speak MLLP


class FramingError(Exception):
    """What comes is no MLLP, or a message is too long; `head` is what was read of it."""

    def __init__(self, reason: str, head: bytes = b"") -> None:
        super().__init__(reason)
        self.head = head


def framed(message: bytes) -> bytes:
    """A message as it goes out."""
    return _START + message + _END + _CR


class Framer:
    """Takes bytes as they come and gives whole messages.

    A message ends at its end block; the carriage return behind that may be missing. Bytes outside of messages are
    dropped, as is the beginning of a message in which another one starts.
    """

    def __init__(self, max_message_bytes: int) -> None:
        self._max = max_message_bytes
        self._held = bytearray()
        self._stray = 0
        self.within = False
        """Whether a message has begun and not ended."""
        self.dropped = 0
        """Messages whose end never came."""

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole now.

        Raises:
            FramingError: a message is longer than the limit, or what comes is something else; nothing more can be read.
        """
        messages = []
        rest = data
        while rest:
            if not self.within:
                rest = self._to_start(rest)
                continue
            body, end, rest = rest.partition(_END)
            begun = body.rfind(_START)
            if begun >= 0:
                self.dropped += 1
                self._held.clear()
                body = body[begun + 1 :]
            self._held += body
            if len(self._held) > self._max:
                raise FramingError(f"A message may have {self._max} bytes.", bytes(self._held[:1000]))
            if end:
                messages.append(bytes(self._held))
                self._held.clear()
                self.within = False
        return messages

    def _to_start(self, data: bytes) -> bytes:
        stray, start, rest = data.partition(_START)
        self._stray = 0 if start else self._stray + len(stray.strip())
        if len(stray.strip()) > _MAX_STRAY_BYTES or self._stray > _MAX_STRAY_BYTES:
            raise FramingError("This is no MLLP: a message starts with the byte 0B.")
        self.within = bool(start)
        return rest
