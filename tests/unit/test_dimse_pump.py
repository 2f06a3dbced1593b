"""C-STORE requests over a socket: every source, every length of PDU, byte for byte; and sources that fail."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pacs.dimse.buffers import BufferPool
from pacs.dimse.pump import HalfSentError, Pump
from pacs.dimse.wire import PeerTimeoutError, Wire
from pacs.outgoing import ANY, Outgoing, open_outgoing
from storage.errors import NotFound, NotTranscodable, ObjectStoreUnavailable

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from images import image, pixels
from objects import kept

POOL = BufferPool()
COMMAND = b"a command set, which nobody reads here.."


class Pair:
    """Two ends of a connection: a pump at one, what arrives at the other."""

    def __init__(self, max_pdu: int, timeout_s: float = 5.0) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listen:
            listen.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            here = socket.create_connection(listen.getsockname())
            there, _ = listen.accept()
        here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        self._there = there
        self.wire = Wire(here, POOL, max_pdu_bytes=1 << 20, timeout_s=timeout_s)
        self._reader = Wire(there, POOL, max_pdu_bytes=max_pdu, timeout_s=5.0)
        self.pump = Pump(self.wire, POOL, max_pdu, timeout_s)

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *exc: object) -> None:
        self.pump.close()
        self.wire.close()
        self._reader.close()

    def drain(self) -> None:
        """Read until the end."""
        with contextlib.suppress(OSError):
            while self._there.recv(1 << 16):
                pass

    def through(self, outgoing: Outgoing, context_id: int = 5) -> bytes:
        """The data set as it arrives; a PDU that is too long, or an odd fragment, fails."""
        got: list[bytes] = []
        problems: list[BaseException] = []

        def read() -> None:
            try:
                assert self._reader.command() == (context_id, COMMAND)
                self._reader.data_set(context_id, lambda parts: got.extend(map(bytes, parts)), 1 << 30)
            except BaseException as error:
                problems.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        try:
            self.pump.send(context_id, COMMAND, outgoing)
        finally:
            thread.join(10)
        assert not problems, problems
        return b"".join(got)


class Remote:
    """A store that has no paths, as an S3 server."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return (lambda _: None) if name == "path" else getattr(self._inner, name)


def sources(folder: Path, file: bytes) -> dict[str, Outgoing]:
    store, instance = kept(BytesIO(file), folder)
    here = open_outgoing(store, instance, [ANY])
    body = file[instance.dataset_offset :]

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(body), 70_001):
            yield body[at : at + 70_001]

    return {
        "file": here,
        "stream": replace(here, store=Remote(store)),
        "made": replace(here, untouched=False, _made=pieces),
        "made, of known size": Sized(store, instance, here.transfer_syntax, untouched=False, _made=pieces),
    }


class Sized(Outgoing):
    """A made form of known size."""

    @property
    def size(self) -> int | None:
        return self.instance.dataset_size


@pytest.mark.parametrize("source", ["file", "stream", "made", "made, of known size"])
@pytest.mark.parametrize("max_pdu", [0, 1024, 4096, 16384, 16385, 131072, 1 << 24])
def test_it_arrives_as_it_went(source: str, max_pdu: int, tmp_path: Path) -> None:
    file = image(pixels(701, 503))
    outgoing = sources(tmp_path, file)[source]
    with Pair(max_pdu or 1 << 20) as pair:
        for context_id in (5, 5, 7):
            assert pair.through(outgoing, context_id) == file[outgoing.instance.dataset_offset :]


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 700_000), max_pdu=st.sampled_from([1024, 5000, 16384, 131072]))
def test_any_length(size: int, max_pdu: int, tmp_path_factory: Any) -> None:
    file = b"x" * size
    store, instance = kept(BytesIO(file), tmp_path_factory.mktemp("store"))
    with Pair(max_pdu) as pair:
        got = pair.through(open_outgoing(store, instance, [ANY]))
    assert got == file + b"\0" * (size % 2)  # fragments are even (PS3.8 E.1)


def failing(outgoing: Outgoing, error: Exception, after: int) -> Outgoing:
    def pieces() -> Iterator[bytes]:
        yield bytes(after)
        raise error

    return Sized(outgoing.store, outgoing.instance, outgoing.transfer_syntax, untouched=False, _made=pieces)


def test_what_fails_before_anything_went_leaves_the_connection(tmp_path: Path) -> None:
    file = image(pixels(701, 503))
    good = sources(tmp_path, file)["file"]
    gone = replace(good, instance=replace(good.instance, object_key="ab/cd/" + "0" * 32 + ".dcm"))
    short = replace(good, instance=replace(good.instance, object_size=good.instance.object_size + 2))
    with Pair(16384) as pair:
        for bad, error in (
            (gone, NotFound),
            (short, ObjectStoreUnavailable),
            (failing(good, NotTranscodable(), 0), NotTranscodable),
        ):
            with pytest.raises(error):
                pair.pump.send(5, COMMAND, bad)
        assert pair.through(good) == file[good.instance.dataset_offset :]


def test_what_fails_in_the_middle_ends_it(tmp_path: Path) -> None:
    file = image(pixels(1500, 1000))
    good = sources(tmp_path, file)["file"]
    with Pair(16384) as pair:
        threading.Thread(target=pair.drain).start()
        with pytest.raises(HalfSentError):
            pair.pump.send(5, COMMAND, failing(good, NotTranscodable(), 1_000_000))


@pytest.mark.parametrize("watched", [False, True])
def test_a_peer_that_reads_nothing_is_not_waited_for_longer_than_agreed(watched: bool, tmp_path: Path) -> None:
    ticks: list[int] = []
    good = sources(tmp_path, image(pixels(1500, 1000)))["file"]
    with Pair(16384, timeout_s=1.2) as pair:
        if watched:
            pair.wire.attend(lambda: ticks.append(1))
        with pytest.raises(PeerTimeoutError):
            pair.pump.send(5, COMMAND, good)
    assert bool(ticks) is watched


def test_a_watcher_may_break_a_transfer_off(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    good = sources(tmp_path, image(pixels(1500, 1000)))["file"]
    wanted: Callable[[], None] = stop
    with Pair(16384, timeout_s=60) as pair:
        pair.wire.attend(wanted)
        with pytest.raises(StopError):
            pair.pump.send(5, COMMAND, good)
