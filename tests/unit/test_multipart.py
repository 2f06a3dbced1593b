"""The multipart reader gives back what was put in, however it is cut; and nothing it is fed makes it hang or grow."""

from __future__ import annotations

import re
import tracemalloc

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from api.dicomweb.multipart import PART_END, Event, InvalidMultipart, MediaType, Multipart, PartHead

BOUNDARY = b"b-0x"
DELIMITER = b"\r\n--" + BOUNDARY

# Content made of what a delimiter is made of, so that near misses are the rule.
_tricky = st.lists(
    st.sampled_from([b"\r", b"\n", b"-", b"--", BOUNDARY, b"\r\n--", b"\r\n--b-0", b"b", b"x", b"\0", b"\r\r\n", b" "])
    | st.binary(max_size=20),
    max_size=12,
).map(b"".join)
_content = _tricky.filter(lambda data: DELIMITER not in b"\r\n" + data + b"\r\n--")
_headers = st.dictionaries(
    st.sampled_from(["content-type", "content-location", "content-id", "x-other"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30),
    max_size=4,
)
_cuts = st.lists(st.integers(1, 60), max_size=30)


def body(parts: list[tuple[dict[str, str], bytes]], preamble: bytes = b"", epilogue: bytes = b"") -> bytes:
    whole = preamble
    for headers, content in parts:
        fields = "".join(f"{name.title()}: {value}\r\n" for name, value in headers.items())
        whole += DELIMITER + b"\r\n" + fields.encode() + b"\r\n" + content
    return whole + DELIMITER + b"--" + epilogue


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """The data cut into pieces of the given lengths, then the rest."""
    found, at = [], 0
    for length in cuts:
        found.append(data[at : at + length])
        at += length
    return [piece for piece in [*found, data[at:]] if piece]


def read(chunks: list[bytes], boundary: bytes = BOUNDARY) -> list[tuple[dict[str, str], bytes]]:
    """What a reader makes of the chunks; raises InvalidMultipart."""
    reader, events = Multipart(boundary), list[Event]()
    for chunk in chunks:
        events += [bytes(e) if isinstance(e, memoryview) else e for e in reader.feed(chunk)]  # type: ignore[misc]
    reader.finish()
    parts: list[tuple[dict[str, str], bytes]] = []
    for event in events:
        if isinstance(event, PartHead):
            parts.append((dict(event.headers), b""))
        elif event is not PART_END:
            parts[-1] = (parts[-1][0], parts[-1][1] + event)  # type: ignore[operator]
    assert sum(event is PART_END for event in events) == len(parts)
    return parts


@given(
    st.lists(st.tuples(_headers, _content), min_size=1, max_size=4), _cuts, st.sampled_from([b"", b"hello", b"\r\n"])
)
@example([({}, b"")], [1] * 30, b"")
@example([({}, b"\r\n--b-0"), ({}, b"\r")], [1] * 60, b"hello")
@settings(deadline=None)
def test_what_is_put_in_comes_out(parts: list[tuple[dict[str, str], bytes]], cuts: list[int], around: bytes) -> None:
    assert read(pieces(body(parts, around, around), cuts)) == parts


def oracle(data: bytes) -> list[bytes] | None:
    """The contents by a regular expression over the whole body (RFC 2046 5.1.1), None where it is not complete."""
    found = re.split(rb"(?:^|\r\n)--b-0x(?=\r\n|--|[ \t]+\r\n)", data)
    contents = []
    for one in found[1:]:
        if one.startswith(b"--"):
            return contents
        padding, _, rest = one.partition(b"\r\n")
        if padding.strip(b" \t"):
            return None
        _head, gap, content = (b"\r\n" + rest).partition(b"\r\n\r\n")
        if not gap:
            return None
        contents.append(content)
    return None


@given(
    st.lists(
        st.sampled_from([DELIMITER, b"--b-0x", b"--b-0x--", b"\r\n", b"\r\n\r\n", b"--", b"A: b\r\n", b"\r", b"z"]),
        max_size=14,
    ).map(b"".join),
    _cuts,
)
@settings(deadline=None, max_examples=400)
def test_any_mixture_is_read_like_the_oracle_or_refused(data: bytes, cuts: list[int]) -> None:
    assume(b"\r\n\r\n--b-0x" not in data)  # a line break that ends the headers begins no delimiter: RFC 2046 is unclear
    try:
        contents = [content for _, content in read(pieces(data, cuts))]
    except InvalidMultipart:
        return
    assert contents == oracle(data)


@given(st.binary(max_size=300) | _tricky, _cuts)
@example(b"\n\n--b-0x--", [1] * 10)  # found by fuzzing: a delimiter that begins no line
@settings(deadline=None)
def test_how_it_is_cut_never_matters(data: bytes, cuts: list[int]) -> None:
    def outcome(chunks: list[bytes]) -> list[tuple[dict[str, str], bytes]] | None:
        try:
            return read(chunks)
        except InvalidMultipart:
            return None

    assert outcome(pieces(data, cuts)) == outcome([data])


def test_ten_gigabytes_cost_no_memory() -> None:
    reader = Multipart(BOUNDARY)
    reader.feed(DELIMITER + b"\r\n\r\n")
    piece = (b"\r\n--b-0" + b"\0" * 1017) * 1024
    size, count = 0, (10 << 30) // len(piece)
    tracemalloc.start()
    for _ in range(count):
        size += sum(len(event) for event in reader.feed(piece))  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    events = reader.feed(DELIMITER + b"--")
    assert (size, events, reader.complete) == (count * len(piece), [PART_END], True)
    assert peak < 100_000


@pytest.mark.parametrize(
    "boundary", ["", '""', "x" * 71, '"ends with blank "', '"line\nbreak"', '"nul\0"', "tab\there"]
)
def test_boundaries_that_are_refused(boundary: str) -> None:
    with pytest.raises(InvalidMultipart, match="boundary"):
        MediaType.parse(f"multipart/related; boundary={boundary}").boundary()


@pytest.mark.parametrize("boundary", ["a", "x" * 70, "0aZ'()+_,-./:=?", "with blank"])
def test_boundaries_that_are_taken(boundary: str) -> None:
    found = MediaType.parse(f'Multipart/Related; Type="application/dicom"; BOUNDARY="{boundary}"')
    assert (found.name, found.parameters["type"]) == ("multipart/related", "application/dicom")
    whole = f"--{boundary}\r\nContent-Type: a/b; c=d\r\n\r\nx\r\n--{boundary}--".encode()
    assert read([whole], found.boundary()) == [({"content-type": "a/b; c=d"}, b"x")]


@given(st.text(max_size=80))
def test_any_content_type_is_parsed(text: str) -> None:
    assert MediaType.parse(text.encode("utf-8").decode("latin-1")).name is not None


def test_a_part_says_what_it_is() -> None:
    head = PartHead({"content-type": 'Image/JLS; Transfer-Syntax="1.2.3"', "content-location": "a/b"})
    assert head.media_type == MediaType("image/jls", {"transfer-syntax": "1.2.3"})
    assert head.location == "a/b"
    assert PartHead({}).media_type.name == ""
