"""C-STORE requests out: the object goes from the store to the socket in large pieces, with the PDU headers in between.

One buffer holds a run of P-DATA-TF PDUs whose headers are written once, since all but the last fragment have the same
length. `preadv` fills the gaps between the headers straight from the file, and one send takes the whole run: two system
calls for half a megabyte, whatever short PDUs the peer asks for. (sendfile, one call for each header and each fragment,
was half as fast.)
"""

from __future__ import annotations

import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import BinaryIO, Protocol

from pacs.dimse.buffers import BufferPool
from pacs.dimse.wire import P_DATA, PeerTimeoutError, Wire, WireError
from pacs.outgoing import Outgoing
from storage.errors import NotFound, ObjectStoreUnavailable, SanglocError
from storage.objects import Buffer

__all__ = ["HalfSentError", "Pump"]

_PDU_BYTES = (1 << 17) - 16  # longer ones are not faster; four fit into a buffer
_LEAST_PDU_BYTES = 1 << 10
_LAST = 2  # message control header of the last data fragment (PS3.8 E.2)
_COMMAND_LAST = 3
_PDATA = struct.Struct(">BxIIBB")
_SPOOL_BYTES = 16 << 20  # a form made on the way of unknown length waits in memory up to this, then in a file
_LEAST_BYTES_PER_S = 16 << 10  # a receiver that takes less is one that stalls


class HalfSentError(WireError):
    """The object could not be read to its end, and part of it was sent: the association cannot go on."""


class Pump:
    """Sends C-STORE requests over one wire; gives its buffer back on `close`."""

    def __init__(self, wire: Wire, pool: BufferPool, peer_max_pdu_bytes: int, patience_s: float) -> None:
        self._wire, self._pool, self._patience_s = wire, pool, patience_s
        self._buffer = pool.take()
        self._room = (min(max(peer_max_pdu_bytes or _PDU_BYTES, _LEAST_PDU_BYTES), _PDU_BYTES) - 6) & ~1
        stride = self._room + _PDATA.size
        self._starts = range(0, len(self._buffer) - stride + 1, stride)
        self._gaps = [self._buffer[at + _PDATA.size : at + stride] for at in self._starts]

    def close(self) -> None:
        """Give the buffer back."""
        self._gaps.clear()
        self._pool.give(self._buffer)

    def send(
        self, context_id: int, command: bytes, outgoing: Outgoing, watch: Callable[[], None] = lambda: None
    ) -> int:
        """Send a command set and the object; returns the bytes of its data set.

        Args:
            context_id: the presentation context.
            command: the C-STORE request, encoded.
            outgoing: the object in the context's transfer syntax.
            watch: called after each run of fragments; what it raises breaks the transfer off.

        Raises:
            SanglocError: the object cannot be read or made; nothing was sent.
            WireError: the connection is at its end; `HalfSentError` when the object could not be read to its end.
        """
        with closing(_source(outgoing)) as source:
            self._address(context_id)
            deadline = time.monotonic() + self._patience_s + source.size / _LEAST_BYTES_PER_S
            head = _PDATA.pack(P_DATA, len(command) + 6, len(command) + 2, context_id, _COMMAND_LAST) + command
            parts = [memoryview(head)]
            left = source.size
            while left:
                try:
                    run = self._fill(source, left)
                except (SanglocError, OSError) as error:
                    if parts:  # the command has not gone yet
                        raise
                    raise HalfSentError(str(error)) from error
                left -= run
                self._wire.send_parts([*parts, self._run(context_id, run, last=not left)])
                parts = []
                if time.monotonic() > deadline:
                    raise PeerTimeoutError
                watch()
            return source.size

    def _address(self, context_id: int) -> None:
        """Write the headers of full fragments."""
        header = _PDATA.pack(P_DATA, self._room + 6, self._room + 2, context_id, 0)
        for at in self._starts:
            self._buffer[at : at + _PDATA.size] = header

    def _fill(self, source: _Source, left: int) -> int:
        """Read the next bytes into the gaps; how many."""
        whole, rest = divmod(min(left, len(self._gaps) * self._room), self._room)
        gaps = self._gaps[:whole]
        if rest:
            gaps.append(self._gaps[whole][:rest])
        source.fill(gaps)
        return whole * self._room + rest

    def _run(self, context_id: int, count: int, *, last: bool) -> memoryview:
        """The PDUs around the `count` bytes in the gaps; only the last run has another header than those that stand."""
        full = (count - 1) // self._room  # before the last fragment
        at, length = self._starts[full], count - full * self._room
        if last:
            if length % 2:  # a data set that is broken in itself, but fragments must be even (PS3.8 E.1)
                self._buffer[at + _PDATA.size + length] = 0
                length += 1
            _PDATA.pack_into(self._buffer, at, P_DATA, length + 6, length + 2, context_id, _LAST)
        return self._buffer[: at + _PDATA.size + length]


class _Source(Protocol):
    size: int

    def fill(self, gaps: list[memoryview]) -> None:
        """Fill them all, in order. Raises when there are not so many bytes."""

    def close(self) -> None: ...


def _source(outgoing: Outgoing) -> _Source:
    instance = outgoing.instance
    if outgoing.untouched:
        path = outgoing.store.path(instance.object_key)
        if path is not None:
            return _File(path, instance.dataset_offset, instance.object_size)
        file = outgoing.store.open(instance.object_key)
        file.seek(instance.dataset_offset)
        return _Stream(file, instance.dataset_size)
    size = outgoing.size
    return _Chunks(outgoing.chunks(), size) if size is not None else _spooled(outgoing.chunks())


class _File:
    """A file of the local store."""

    def __init__(self, path: str, offset: int, end: int) -> None:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFound("The object is gone from the store.") from error
        except OSError as error:
            raise ObjectStoreUnavailable(f"The object store cannot be used: {error.strerror}") from error
        self._at, self.size = offset, end - offset
        if os.fstat(self._fd).st_size != end:
            self.close()
            raise ObjectStoreUnavailable("The object is not as long as its row says.")

    def fill(self, gaps: list[memoryview]) -> None:
        while gaps:
            count = os.preadv(self._fd, gaps, self._at)
            if not count:
                raise ObjectStoreUnavailable("The object ended early.")
            self._at += count
            gaps = _behind(gaps, count)

    def close(self) -> None:
        os.close(self._fd)


class _Stream:
    """An open file of any kind."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.size = file, size

    def fill(self, gaps: list[memoryview]) -> None:
        while gaps:
            count = self._file.readinto(gaps[0])  # type: ignore[attr-defined]
            if not count:
                raise ObjectStoreUnavailable("The object ended early.")
            gaps = _behind(gaps, count)

    def close(self) -> None:
        self._file.close()


class _Chunks:
    """What is made on the way, of known size."""

    def __init__(self, chunks: Iterator[Buffer], size: int) -> None:
        self._chunks, self.size = chunks, size
        self._rest = memoryview(b"")

    def fill(self, gaps: list[memoryview]) -> None:
        while gaps:
            while not self._rest:
                try:
                    self._rest = memoryview(next(self._chunks))
                except StopIteration:
                    raise ObjectStoreUnavailable("The object ended early.") from None
            count = min(len(gaps[0]), len(self._rest))
            gaps[0][:count] = self._rest[:count]
            self._rest = self._rest[count:]
            gaps = _behind(gaps, count)

    def close(self) -> None:
        with suppress(AttributeError):
            self._chunks.close()  # type: ignore[attr-defined]


def _spooled(chunks: Iterator[Buffer]) -> _Stream:
    """All of it made first: what fails then fails before anything was sent."""
    file = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - the stream closes it
    try:
        for chunk in chunks:
            file.write(chunk)
        size = file.tell()
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return _Stream(file, size)  # type: ignore[arg-type]


def _behind(gaps: list[memoryview], count: int) -> list[memoryview]:
    """What is left of the gaps after their first `count` bytes."""
    for number, gap in enumerate(gaps):
        if count < len(gap):
            return [gap[count:], *gaps[number + 1 :]] if count else gaps[number:]
        count -= len(gap)
    return []
