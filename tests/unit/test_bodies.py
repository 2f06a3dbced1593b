"""Bodies of pieces: parts of them, tags, delimiters (RFC 9110 14, RFC 2046 5.1.1)."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from api.dicomweb.bodies import Body, Made, Piece, Stored, answer, boundary_of, multipart, tag_of

OBJECT = bytes(range(256)) * 4
PIECES = st.lists(
    st.binary(max_size=20)
    | st.tuples(st.integers(0, 500), st.integers(0, 500)).map(lambda at: Stored("aa/bb/0.dcm", at[0], at[1])),
    max_size=8,
)


def whole(pieces: Any) -> bytes:
    return b"".join(p if isinstance(p, bytes) else OBJECT[p.offset : p.offset + p.size] for p in pieces)


def told(body: Body, **headers: str) -> Any:
    """The answer to a request with these header fields; it is not sent, so it needs no server."""
    return answer(cast(Any, None), {name.replace("_", "-"): value for name, value in headers.items()}, body, '"tag"')


def sent(response: Any) -> bytes:
    return response.body if hasattr(response, "body") else whole(response._pieces)


@given(PIECES, st.integers(0, 3000), st.integers(0, 3000))
def test_a_range_is_that_part_of_the_whole(pieces: list[Piece], first: int, last: int) -> None:
    content = whole(pieces)
    response = told(Body(pieces, "a/b"), range=f"bytes={first}-{last}")
    if last < first:
        assert (response.status_code, sent(response)) == (200, content)
    elif first >= len(content):
        assert response.status_code == 416
    else:
        assert response.status_code == 206
        assert sent(response) == content[first : last + 1]
        assert int(response.headers["content-length"]) == len(sent(response))


@given(PIECES, st.integers(0, 3000))
def test_the_last_bytes(pieces: list[Piece], count: int) -> None:
    content = whole(pieces)
    response = told(Body(pieces, "a/b"), range=f"bytes=-{count}")
    if min(count, len(content)) == 0:
        assert response.status_code == 416
    else:
        assert sent(response) == content[-count:]


@given(PIECES, st.text(max_size=30))
def test_any_range_field(pieces: list[Piece], field: str) -> None:
    assert told(Body(pieces, "a/b"), range=field).status_code in (200, 206, 416)


def test_what_is_made_has_no_size_and_no_parts() -> None:
    body = Body([b"x", Made(lambda: iter((b"y",)))], "a/b")
    response = told(body, range="bytes=0-0")
    assert (body.size, response.status_code) == (None, 200)
    assert "content-length" not in response.headers
    assert told(body, if_none_match='W/"a", "tag"').status_code == 304
    assert Body(iter([b"x"]), "a/b").size is None


def test_parts_and_their_delimiters() -> None:
    body = multipart([({"Content-Type": "a/b"}, [b"one"]), ({"Content-Type": "c/d"}, [b"two", b"!"])], "a/b", '"12ab"')
    boundary = boundary_of('"12ab"')
    assert body.media_type == f'multipart/related; type="a/b"; boundary={boundary}'
    lines = [f"--{boundary}", "Content-Type: a/b", "", "one", f"--{boundary}", "Content-Type: c/d", "", "two!"]
    assert whole(body.pieces) == "\r\n".join([*lines, f"--{boundary}--", ""]).encode()
    assert body.size == len(whole(body.pieces))


def test_tags_tell_apart() -> None:
    assert tag_of("a", "bc") != tag_of("ab", "c")
    assert tag_of("a", 1) == tag_of("a", 1)
