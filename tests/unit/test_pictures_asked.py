"""Query parameters of pictures, whatever is written in them (PS3.18 8.3.5), and the pictures that are kept."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import HTTPException
from hypothesis import given
from hypothesis import strategies as st

from api.dicomweb.picturequery import _asked
from api.pictures import Pictures
from api.rendering import Picture, Rendered

NUMBER = st.sampled_from(["", "0", "1", "-5", "512", "1e3", "nan", "inf", "9999999999", "x", " 7 "]) | st.floats().map(
    str
)


def asked(**query: str | int | None) -> Picture | None:
    """The picture, None where the query is refused with 400."""
    try:
        return asyncio.run(_asked(**{"viewport": None, "window": None, "quality": 90, "annotation": None} | query))  # type: ignore[arg-type]
    except HTTPException as error:
        if error.status_code != 400:
            raise
        return None


@given(st.lists(NUMBER, max_size=8).map(",".join) | st.text(max_size=40))
def test_any_viewport_is_a_picture_or_refused(text: str) -> None:
    found = asked(viewport=text)
    if found is not None:
        assert found.viewport is not None
        assert all(1 <= side <= 8192 for side in found.viewport)
        assert found.region is None or 0 not in found.region[2:]


@given(st.tuples(NUMBER, NUMBER, st.sampled_from(["", "linear", "SIGMOID", "linear-exact", "cubic"])).map(",".join))
def test_any_window_is_a_picture_or_refused(text: str) -> None:
    found = asked(window=text)
    if found is not None:
        assert found.center is not None
        assert found.width is not None
        assert found.width > 0
        assert abs(found.center) <= 1e9


@pytest.mark.parametrize(
    ("viewport", "region"),
    [("10,20", None), ("10,20,,,,", None), ("10,20,5,,,", (5, None, None, None)), ("10,20,1,2,-3,4", (1, 2, -3, 4))],
)
def test_members_left_out_are_those_of_the_image(viewport: str, region: object) -> None:
    found = asked(viewport=viewport)
    assert found is not None
    assert (found.viewport, found.region) == ((10, 20), region)


def test_pictures_are_kept_within_a_bound() -> None:
    pictures = Pictures(10_000)
    made: list[str] = []

    def get(tag: str, size: int = 1500) -> bytes:
        return pictures.get(tag, lambda: made.append(tag) or Rendered(body=tag.encode() * size)).body  # type: ignore[func-returns-value]

    for tag in "abcde":
        get(tag)
    assert get("a") == b"a" * 1500
    assert made == list("abcde")
    get("f")  # b was not asked for for the longest time
    get("a")
    get("b")
    assert made == [*"abcdef", "b"]
    for _ in range(2):  # too large to be kept
        assert get("g", 3_000) == b"g" * 3_000
    get("b")
    assert made[-3:] == ["b", "g", "g"]
