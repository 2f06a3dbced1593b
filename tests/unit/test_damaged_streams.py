"""Damaged code streams: an error each, never the end of the process or of a thread."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pydicom.pixels.decoders.base
import pytest
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless, RLELossless

from pacs import codecs
from storage.codestream import panics_are_errors
from storage.errors import NotTranscodable

IMAGE = {
    "rows": 64,
    "columns": 64,
    "samples_per_pixel": 1,
    "bits_allocated": 16,
    "bits_stored": 16,
    "pixel_representation": 0,
    "photometric_interpretation": "MONOCHROME2",
}
PIXELS = (np.add.outer(np.arange(64), np.arange(64)) * 16).astype(np.uint16)


def damaged(stream: bytes, seed: int) -> bytes:
    chance = random.Random(seed)
    changed = bytearray(stream)
    for _ in range(chance.choice([1, 3, 20])):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed[: chance.randrange(2, len(changed))] if chance.random() < 0.3 else changed)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless], ids=["RLE", "JPEG-LS", "JPEG 2000"])
def test_what_is_damaged_is_an_error_or_a_picture(syntax: UID) -> None:
    stream = codecs.encode(PIXELS, syntax, IMAGE)
    outcomes: list[Any] = []
    for seed in range(150):
        try:
            outcomes.append(codecs.decode(damaged(stream, seed), syntax, IMAGE)[0].shape)
        except NotTranscodable:
            outcomes.append(None)
    assert None in outcomes
    assert set(outcomes) <= {None, (64, 64)}


def test_a_panic_is_an_error() -> None:
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(RuntimeError, match="gave up: index"), panics_are_errors():
        raise panic("index out of bounds")
    with pytest.raises(KeyboardInterrupt), panics_are_errors():
        raise KeyboardInterrupt


def test_gdcm_is_not_there() -> None:
    """Its C++ exceptions end the process on streams such as the above, and pydicom would try it."""
    for decoder in pydicom.pixels.decoders.base._PIXEL_DATA_DECODERS.values():
        assert "gdcm" not in decoder[0].available_plugins
