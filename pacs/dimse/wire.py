"""Bytes on the socket: PDUs and PDVs read in place from one large buffer (PS3.8 9.3).

The hot path of the receiver. One `recv_into` brings many PDUs; their 12 header bytes are stepped over and the
fragments of a data set are handed on as views of the buffer, many at a time, without a copy.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Sequence

from pacs.dimse.buffers import BufferPool
from storage.errors import ObjectTooLarge

__all__ = [
    "ABORT",
    "ASSOCIATE_AC",
    "ASSOCIATE_RJ",
    "ASSOCIATE_RQ",
    "INVALID_PARAMETER",
    "P_DATA",
    "RELEASE_RP",
    "RELEASE_RQ",
    "BufferPool",
    "ConnectionLostError",
    "PeerAbortedError",
    "PeerTimeoutError",
    "ProtocolError",
    "ReleaseRequestedError",
    "Sink",
    "Wire",
    "WireError",
]

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
# Reasons of an A-ABORT by the service provider (PS3.8 table 9-26).
UNRECOGNIZED_PDU, UNEXPECTED_PDU, INVALID_PARAMETER = 1, 2, 6

_COMMAND, _LAST = 1, 2  # bits of the message control header (PS3.8 E.2)
_MAX_COMMAND_BYTES = 1 << 16
_MAX_CONTROL_BYTES = 1 << 18  # an A-ASSOCIATE-RQ with 128 contexts of 40 transfer syntaxes has 150 kB
_LEAST_ROOM = 1 << 14  # with less free space at its end the buffer is emptied before the next recv
_TICK_S = 1.0
_KEEP_BUFFER_MS = 100  # an association that is silent for longer gives its buffer back

_PDU = struct.Struct(">BxI")
_PDV = struct.Struct(">IBB")
_PDATA = struct.Struct(">BxIIBB")
_TIMEVAL = struct.Struct("@ll")

Sink = Callable[[Sequence[memoryview]], None]


class WireError(Exception):
    """The conversation with the peer ends here."""


class ProtocolError(WireError):
    """The peer broke PS3.8; the association is aborted with this reason."""

    def __init__(self, reason: int, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ConnectionLostError(WireError):
    """The connection ended without a release."""


class PeerTimeoutError(WireError):
    """The peer was silent for too long."""


class PeerAbortedError(WireError):
    """The peer sent an A-ABORT."""


class ReleaseRequestedError(WireError):
    """The peer sent an A-RELEASE-RQ."""


class _Held:
    """Fragments of a data set that lie in the buffer and are not handed on yet."""

    def __init__(self, sink: Sink, limit_bytes: int) -> None:
        self._sink, self._limit_bytes = sink, limit_bytes
        self._parts: list[memoryview] = []
        self.total = 0
        self.error: Exception | None = None

    def add(self, part: memoryview) -> None:
        self._parts.append(part)
        self.total += len(part)
        if self.total > self._limit_bytes:
            self.error = self.error or ObjectTooLarge(f"The data set is longer than {self._limit_bytes} bytes")
            if self.total > 2 * self._limit_bytes:
                raise ProtocolError(INVALID_PARAMETER, f"data set of more than {self.total} bytes")

    def hand_on(self) -> None:
        parts, self._parts = self._parts, []
        if self.error is not None or not parts:
            return
        try:
            self._sink(parts)
        except Exception as error:  # whatever it is: the rest of the message must be read before it is answered
            self.error = error


class Wire:
    """One connection: PDUs in, bytes out. Used by one thread."""

    def __init__(self, sock: socket.socket, pool: BufferPool, *, max_pdu_bytes: int, timeout_s: float) -> None:
        self._sock = sock
        self._pool = pool
        self._max_pdu_bytes = max_pdu_bytes
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._buffer: memoryview | None = None
        self._pos = self._end = 0  # the unread bytes in the buffer
        self._pdu_left = 0  # bytes of the current P-DATA-TF PDU behind `_pos`
        self._deadline: float | None = None
        self._held: _Held | None = None
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._timeout_s = timeout_s
        self._tick: Callable[[], None] | None = None
        self._set_timeout(timeout_s)

    def attend(self, tick: Callable[[], None]) -> None:
        """Call `tick` about once a second while the peer keeps us waiting; what it raises ends the wait."""
        self._tick = tick
        self._set_timeout(min(self._timeout_s, _TICK_S))

    def _waited(self, since: float) -> None:
        """The kernel's time-out is over: go on waiting, or raise `PeerTimeoutError`."""
        if self._tick is None or time.monotonic() - since >= self._timeout_s:
            raise PeerTimeoutError
        self._tick()

    def _set_timeout(self, seconds: float) -> None:
        if self._tls:
            self._sock.settimeout(seconds)
            return
        # The kernel's own time-outs: a Python time-out costs a poll() before each recv().
        value = _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1e6))
        self._sock.setblocking(True)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    # ---- receiving

    def within(self, seconds: float | None) -> None:
        """Everything must be received within so many seconds from now, however slowly it drips; None ends this."""
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def wait(self, seconds: float) -> None:
        """Wait between two messages, without a buffer once it takes longer. Raises `PeerTimeoutError`."""
        if self._pos < self._end or (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()):
            return
        if self._poll.poll(_KEEP_BUFFER_MS):
            return
        self.give_buffer_back()
        if not self._poll.poll(seconds * 1000):
            raise PeerTimeoutError

    def readable(self) -> bool:
        """Whether something (or the end of the connection) can be read now."""
        if self._pos < self._end or (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()):
            return True
        return bool(self._poll.poll(0))

    def give_buffer_back(self) -> None:
        """Return the buffer to the pool; what is unread in it is lost."""
        if self._buffer is not None:
            self._pool.give(self._buffer)
            self._buffer = None
        self._pos = self._end = 0

    def _receive(self) -> None:
        """One recv behind the unread bytes."""
        buffer = self._make_room()
        if self._deadline is not None and not self._pending():
            raise PeerTimeoutError
        since = 0.0
        while True:
            try:
                # A client with Nagle's algorithm holds its last segment until we acknowledge: do it now, not in 40 ms.
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                count = self._sock.recv_into(buffer[self._end :])
                break
            except (BlockingIOError, TimeoutError):
                since = since or time.monotonic() - _TICK_S
                self._waited(since)
            except OSError as error:
                raise ConnectionLostError from error
        if not count:
            raise ConnectionLostError
        self._end += count

    def _make_room(self) -> memoryview:
        """The buffer, with room at its end. The only place where bytes in it move or may be overwritten."""
        if self._buffer is None:
            self._buffer = self._pool.take()
        if len(self._buffer) - self._end < _LEAST_ROOM:
            if self._held is not None:
                self._held.hand_on()
            tail = bytes(self._buffer[self._pos : self._end])
            self._buffer[: len(tail)] = tail
            self._pos, self._end = 0, len(tail)
        return self._buffer

    def _pending(self) -> bool:
        """Whether something can be read before the deadline."""
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            return True
        assert self._deadline is not None
        return bool(self._poll.poll(max(0.0, self._deadline - time.monotonic()) * 1000))

    def _need(self, count: int) -> memoryview:
        """The buffer, with `count` (a few) unread bytes in one piece."""
        while self._end - self._pos < count:
            self._receive()
        assert self._buffer is not None
        return self._buffer

    def _take(self, count: int) -> bytes:
        """The next `count` bytes as one object."""
        parts = []
        while count:
            part = bytes(self._part(count))
            count -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _part(self, most: int) -> memoryview:
        """A view of the next unread bytes, at least one and at most `most`; good until the next receive."""
        buffer = self._need(1)
        part = buffer[self._pos : min(self._end, self._pos + most)]
        self._pos += len(part)
        return part

    def _header(self) -> tuple[int, int]:
        kind, length = _PDU.unpack_from(self._need(_PDU.size), self._pos)
        if not ASSOCIATE_RQ <= kind <= ABORT:
            raise ProtocolError(UNRECOGNIZED_PDU, f"unrecognized PDU type {kind:#04x}")
        self._pos += _PDU.size
        return kind, length

    def control(self, *expected: int) -> bytes:
        """The body of the next PDU, which must be of an expected type."""
        return self.pdu(*expected)[1]

    def pdu(self, *expected: int) -> tuple[int, bytes]:
        """Type and body of the next PDU, which must be of an expected type."""
        kind, length = self._header()
        if kind == ABORT:
            raise PeerAbortedError
        if kind not in expected:
            raise ProtocolError(UNEXPECTED_PDU, f"unexpected PDU type {kind}")
        if length > _MAX_CONTROL_BYTES:
            raise ProtocolError(INVALID_PARAMETER, f"PDU of {length} bytes")
        return kind, self._take(length)

    def _pdv(self) -> tuple[int, int, int]:
        """Step to the next presentation data value: context id, message control header, bytes of the fragment."""
        if not self._pdu_left:
            kind, length = self._header()
            if kind == ABORT:
                raise PeerAbortedError
            if kind == RELEASE_RQ:
                self._take(min(length, 4))
                raise ReleaseRequestedError
            if kind != P_DATA:
                raise ProtocolError(UNEXPECTED_PDU, f"unexpected PDU type {kind}")
            if length > self._max_pdu_bytes:
                raise ProtocolError(INVALID_PARAMETER, f"PDU of {length} bytes, at most {self._max_pdu_bytes} agreed")
            self._pdu_left = length
        if self._pdu_left < _PDV.size:
            raise ProtocolError(INVALID_PARAMETER, "PDU without a whole presentation data value")
        length, context_id, control = _PDV.unpack_from(self._need(_PDV.size), self._pos)
        length -= 2
        self._pos += _PDV.size
        self._pdu_left -= _PDV.size
        if not 0 <= length <= self._pdu_left:
            raise ProtocolError(INVALID_PARAMETER, "presentation data value longer than its PDU")
        self._pdu_left -= length
        return context_id, control, length

    def command(self) -> tuple[int, bytes]:
        """Context id and command set of the next message (PS3.8 E.2)."""
        context_id, control, length = self._pdv()
        parts, total = [], 0
        while True:
            total += length
            if not control & _COMMAND or total > _MAX_COMMAND_BYTES:
                raise ProtocolError(INVALID_PARAMETER, "no command set where one must stand")
            parts.append(self._take(length))
            if control & _LAST:
                return context_id, b"".join(parts)
            following, control, length = self._pdv()
            if following != context_id:
                raise ProtocolError(INVALID_PARAMETER, "one message in two presentation contexts")

    def data_set(self, context_id: int, sink: Sink, limit_bytes: int) -> int:
        """Hand the data set of the current message to `sink`, many fragments at a time; returns its bytes.

        When `sink` raises or the limit is passed (`ObjectTooLarge`), the rest of the message is still read and
        dropped before the error goes on, so that the association can answer and live. A peer that sends more than
        twice the limit is cut off with a `ProtocolError`.
        """
        held = self._held = _Held(sink, limit_bytes)
        try:
            control = 0
            while not control & _LAST:
                following, control, left = self._pdv()
                if following != context_id or control & _COMMAND:
                    raise ProtocolError(INVALID_PARAMETER, "another message before the end of the data set")
                while left:
                    part = self._part(left)
                    held.add(part)
                    left -= len(part)
            held.hand_on()
        finally:
            self._held = None
        if held.error is not None:
            raise held.error
        return held.total

    # ---- sending

    def send(self, data: bytes | memoryview) -> None:
        """Send all. Raises `ConnectionLostError` or `PeerTimeoutError`."""
        self.send_parts((memoryview(data),))

    def send_parts(self, parts: Sequence[memoryview]) -> None:
        """Send all of them in order, without copying them into one. Errors as in `send`."""
        left, since = list(parts), time.monotonic()
        while left:
            try:
                sent = self._sock.send(left[0]) if self._tls else self._sock.sendmsg(left)
            except (BlockingIOError, TimeoutError):
                self._waited(since)
                continue
            except OSError as error:
                raise ConnectionLostError from error
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if left:  # the socket's buffer was full for as long as the kernel waits
                left[0], since = left[0][sent:], time.monotonic()

    def send_message(self, context_id: int, command: bytes, max_pdu_bytes: int, data: bytes | None = None) -> None:
        """Send a command set and a data set in PDUs of at most `max_pdu_bytes` (0: no limit), one PDV each."""
        self.send(self.message(context_id, command, max_pdu_bytes, data))

    @staticmethod
    def message(context_id: int, command: bytes, max_pdu_bytes: int, data: bytes | None = None) -> bytes:
        """What `send_message` sends, for whoever sends many at a time."""
        out = bytearray()
        for control, body in ((_COMMAND, command), (0, data)):
            if body is None:
                continue
            room = max(1, (max_pdu_bytes or _MAX_COMMAND_BYTES) - _PDV.size)
            for at in range(0, max(len(body), 1), room):
                part = body[at : at + room]
                flags = control | (_LAST if at + room >= len(body) else 0)
                out += _PDATA.pack(P_DATA, len(part) + _PDV.size, len(part) + 2, context_id, flags)
                out += part
        return bytes(out)

    # ---- the end

    def linger(self, seconds: float) -> None:
        """Say that no more comes, and read on until the peer closes: closing at once could destroy our last PDU."""
        deadline = time.monotonic() + seconds
        try:
            self._sock.shutdown(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0 and self._poll.poll(left * 1000):
                if not self._sock.recv(1 << 16):
                    return
        except OSError:
            return

    def close(self) -> None:
        """Close the socket and give the buffer back."""
        self.give_buffer_back()
        self._sock.close()
