"""A body is handed on in order, one piece at a time, while the next is read; nobody reads ahead without bound."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.dicomweb import intake
from api.dicomweb.intake import ClientGone, pump


class Body:
    """A request whose messages are given."""

    def __init__(self, *chunks: bytes, gone: bool = False) -> None:
        self.messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks
        ]
        if gone:
            self.messages.append({"type": "http.disconnect"})
        elif self.messages:
            self.messages[-1]["more_body"] = False
        else:
            self.messages.append({"type": "http.request"})
        self.read = 0

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        self.read += 1
        return self.messages[self.read - 1]


class Sink:
    """Takes what comes; notes when two calls overlap."""

    def __init__(self) -> None:
        self.data, self.lasts = b"", list[bool]()
        self._busy = threading.Lock()

    def take(self, chunks: Sequence[bytes], last: bool) -> None:
        assert self._busy.acquire(blocking=False), "two calls at a time"
        self.data += b"".join(chunks)
        self.lasts.append(last)
        self._busy.release()


@given(st.lists(st.binary(max_size=30), max_size=40), st.integers(1, 50))
@settings(deadline=None, max_examples=50)
def test_order_and_end(chunks: list[bytes], batch: int) -> None:
    sink = Sink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "_BATCH_BYTES", batch)
        asyncio.run(pump(Body(*chunks).receive, sink.take, None))
    assert sink.data == b"".join(chunks)
    assert sink.lasts == [False] * (len(sink.lasts) - 1) + [True]


def test_no_more_than_two_batches_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_BATCH_BYTES", 10)
    body, go, taken = Body(*[b"x" * 10] * 20), threading.Event(), list[int]()

    def slow(chunks: Sequence[bytes], last: bool) -> None:
        go.wait(10)
        taken.append(body.read)

    async def run() -> None:
        task = asyncio.create_task(pump(body.receive, slow, None))
        for _ in range(100):
            await asyncio.sleep(0.001)
        assert body.read <= 3, "it reads on while nobody takes"
        go.set()
        await task

    asyncio.run(run())
    assert len(taken) == 20


def test_a_client_that_goes_away() -> None:
    sink = Sink()
    with pytest.raises(ClientGone):
        asyncio.run(pump(Body(b"abc", gone=True).receive, sink.take, None))
    assert True not in sink.lasts


def test_an_error_of_the_taker_ends_it_when_its_call_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_BATCH_BYTES", 1)
    calls = 0

    def fail(chunks: Sequence[bytes], last: bool) -> None:
        nonlocal calls
        calls += 1
        raise ValueError("no")

    body = Body(*[b"x"] * 50)
    with pytest.raises(ValueError, match="no"):
        asyncio.run(pump(body.receive, fail, None))
    assert calls == 1
    assert body.read < 5
