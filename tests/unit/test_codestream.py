"""The size that a compressed image states, read without decoding it."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import codestream

IMAGE = np.arange(37 * 53, dtype=np.uint16).reshape(37, 53)
FRAMES = {
    "jpeg": imagecodecs.jpeg8_encode(IMAGE.astype(np.uint8)),
    "jpeg-lossless": imagecodecs.ljpeg_encode(IMAGE),
    "jpeg-ls": imagecodecs.jpegls_encode(IMAGE),
    "jpeg-2000": imagecodecs.jpeg2k_encode(IMAGE, codecformat="j2k"),
    "jp2": imagecodecs.jpeg2k_encode(IMAGE, codecformat="jp2"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_the_stated_size_is_found(name: str) -> None:
    assert codestream.shape(FRAMES[name]) == (37, 53)


@pytest.mark.parametrize("frame", [b"", b"\xff\xd8", (1).to_bytes(4, "little") + bytes(60), IMAGE.tobytes()])
def test_where_no_size_is_stated_none_is_made_up(frame: bytes) -> None:
    assert codestream.shape(frame) is None


@given(st.sampled_from(sorted(FRAMES)), st.integers(0, 200), st.binary(max_size=40))
def test_a_damaged_stream_ends_the_search(name: str, keep: int, rest: bytes) -> None:
    found = codestream.shape(FRAMES[name][:keep] + rest)
    assert found is None or len(found) == 2
