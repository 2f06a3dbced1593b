"""Many threads, one transaction: whoever comes first writes for all who wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["GroupCommit"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class _Ticket(Generic[_Item, _Result]):
    __slots__ = ("item", "result", "turn")

    def __init__(self, item: _Item) -> None:
        self.item = item
        self.result: _Result | BaseException | None = None
        self.turn = threading.Lock()
        self.turn.acquire()  # released when there is a result, or when it is our turn to lead


class GroupCommit(Generic[_Item, _Result]):
    """Calls `write` with what has gathered, at most `limit` items, from one thread at a time.

    The first thread that comes leads: it writes at once, without a hop to another thread, so a single sender pays
    nothing. Those who come meanwhile wait; one of them leads the next batch. `write` returns one result for each item,
    in order; an exception in place of a result is raised in the thread of that item. If `write` itself raises, that
    error is raised in all threads of the batch.
    """

    def __init__(self, write: Callable[[list[_Item]], Sequence[_Result | BaseException]], *, limit: int = 64) -> None:
        self._write = write
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: list[_Ticket[_Item, _Result]] = []
        self._led = False

    def submit(self, item: _Item) -> _Result:
        """Return the result for `item` when its batch is written."""
        ticket: _Ticket[_Item, _Result] = _Ticket(item)
        with self._lock:
            self._waiting.append(ticket)
            leads, self._led = not self._led, True
        if not leads:
            ticket.turn.acquire()
        if ticket.result is None:
            self._lead(ticket)
        result = ticket.result
        assert result is not None
        if isinstance(result, BaseException):
            raise result
        return result

    def _lead(self, own: _Ticket[_Item, _Result]) -> None:
        """Write one batch, which our own ticket opens, then hand the lead to the first who waits."""
        with self._lock:
            batch, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
        try:
            results = self._write([ticket.item for ticket in batch])
        except BaseException as error:
            results = [error] * len(batch)
        with self._lock:
            following = self._waiting[0] if self._waiting else None
            self._led = following is not None
        for ticket, result in zip(batch, results, strict=True):
            ticket.result = result
            if ticket is not own:
                ticket.turn.release()
        if following:
            following.turn.release()
