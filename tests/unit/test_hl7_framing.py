"""MLLP: whole messages out of any pieces; what is no MLLP is refused within bounds."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs.hl7.framing import Framer, FramingError, framed

_BODY = st.binary(max_size=60).map(lambda raw: raw.replace(b"\x0b", b"a").replace(b"\x1c", b"b"))


def feed_all(framer: Framer, data: bytes, size: int) -> list[bytes]:
    return [message for at in range(0, len(data), size) for message in framer.feed(data[at : at + size])]


@given(st.lists(_BODY, max_size=5), st.integers(1, 40))
def test_any_pieces_give_the_same_messages(bodies: list[bytes], size: int):
    framer = Framer(100)
    assert feed_all(framer, b"".join(map(framed, bodies)), size) == bodies
    assert not framer.within


@given(st.binary(max_size=400), st.integers(1, 400))
def test_garbage_is_refused_or_passed_over_and_never_held_beyond_the_limit(data: bytes, size: int):
    messages: list[bytes] = []
    with contextlib.suppress(FramingError):
        messages = feed_all(Framer(50), data, size)
    assert all(len(message) <= 50 for message in messages)


@pytest.mark.parametrize(
    ("data", "messages"),
    [
        (b"\x0bone\x1c\x0btwo\x1c\r", [b"one", b"two"]),  # no carriage return behind the end block
        (b"\r\n \r\x0bone\x1c\r\r\n", [b"one"]),  # blanks between messages
        (b"stray\x0bone\x1c\r", [b"one"]),
        (b"\x0bcut o\x0bone\x1c\r", [b"one"]),  # the first one never ended
        (b"\x0b\x1c\r", [b""]),
        (b"\x1c\r\x0bone\x1c\r", [b"one"]),
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_what_senders_do(data: bytes, messages: list[bytes], size: int):
    assert feed_all(Framer(100), data, size) == messages


def test_a_message_without_end_is_counted():
    framer = Framer(100)
    assert framer.feed(b"\x0bone\x0btwo\x1c\r") == [b"two"]
    assert framer.dropped == 1
    framer.feed(b"\x0bthree")
    assert framer.within


def test_a_message_that_is_too_long_is_refused_with_its_beginning():
    framer = Framer(2000)
    framer.feed(b"\x0bMSH|" + b"x" * 1996)
    with pytest.raises(FramingError, match="2000 bytes") as caught:
        framer.feed(b"x")
    assert caught.value.head == b"MSH|" + b"x" * 996


def test_who_does_not_speak_mllp_is_refused():
    framer = Framer(100_000)
    with pytest.raises(FramingError, match="no MLLP"):
        feed_all(framer, b"GET / HTTP/1.1\r\n" * 400, 16)
