"""JPEG 2000 read at a part of its size: the same film to a model, in a fraction of the time."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, ExplicitVRLittleEndian, JPEG2000Lossless

from inference.decoding import read_stored
from inference.pixels import read_pixels
from models.phantom import chest
from storage.errors import NotScorable

NOISE = np.random.default_rng(0).integers(-6, 7, (1300, 1100))
FILM = np.clip(chest(3, rows=1300, columns=1100) + NOISE, 0, 4095).astype(np.uint16)
PIXELS = {8: (FILM >> 4).astype(np.uint8), 12: FILM, 16: FILM << 4}


def dataset(pixels: npt.NDArray[Any], frame: bytes | None, bits: int, **more: Any) -> bytes:
    header = Dataset()
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = 8 * pixels.itemsize, bits, bits - 1
    header.PixelRepresentation = int(pixels.dtype.kind == "i")
    header.WindowCenter, header.WindowWidth = 1 << (bits - 1), 1 << bits
    for keyword, value in more.items():
        setattr(header, keyword, value)
    header.PixelData = pixels.tobytes() if frame is None else encapsulate([frame])
    header["PixelData"].VR = "OW" if frame is None else "OB"
    header["PixelData"].is_undefined_length = frame is not None
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, header, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def encoded(bits: int, **how: Any) -> bytes:
    options = {"codecformat": "j2k", "bitspersample": bits, "reversible": True, **how}
    return bytes(imagecodecs.jpeg2k_encode(PIXELS[bits], **options))


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_smaller_size_has_the_same_grey_values(bits: int) -> None:
    made = dataset(PIXELS[bits], encoded(bits), bits)
    small = read_stored(made, 0, JPEG2000Lossless, enough=512).pixels
    assert small.shape == (650, 550)
    assert small.dtype == PIXELS[bits].dtype
    whole = PIXELS[bits].reshape(650, 2, 550, 2).mean((1, 3))
    assert abs(float(small.mean() - whole.mean())) < 0.002 * (1 << bits)
    assert float(np.abs(small - whole).mean()) < 0.005 * (1 << bits)


def test_the_image_that_the_model_sees_is_the_same_to_a_grey_level() -> None:
    smaller = read_pixels(dataset(FILM, encoded(12), 12), 0, JPEG2000Lossless)
    lossy = read_pixels(dataset(FILM, encoded(12, reversible=False, level=60), 12), 0, JPEG2000)
    exact = read_pixels(dataset(FILM, None, 12), 0, ExplicitVRLittleEndian).astype(int)
    assert smaller.shape == exact.shape == (512, 433)
    assert np.abs(smaller - exact).mean() < 1
    assert np.abs(lossy - exact).mean() < 2


def test_the_size_is_never_below_what_is_enough() -> None:
    made = dataset(FILM, encoded(12), 12)
    shapes = [read_stored(made, 0, JPEG2000Lossless, enough=enough).pixels.shape for enough in (0, 1300, 651, 650, 300)]
    assert shapes == [(1300, 1100), (1300, 1100), (1300, 1100), (650, 550), (325, 275)]


def test_what_cannot_be_had_smaller_is_decoded_whole() -> None:
    one_level = dataset(FILM, encoded(12, resolutions=1), 12)
    padded = dataset(FILM, encoded(12), 12, PixelPaddingValue=0)
    for made in (one_level, padded):
        assert np.array_equal(read_stored(made, 0, JPEG2000Lossless, enough=512).pixels, FILM)


def test_signed_pixels_keep_their_sign() -> None:
    signed = (FILM.astype(np.int16) - 2048)[:900, :900]
    frame = bytes(imagecodecs.jpeg2k_encode(signed, codecformat="j2k", reversible=True))
    assert np.array_equal(read_stored(dataset(signed, frame, 16), 0, JPEG2000Lossless, enough=300).pixels, signed)


def test_a_damaged_image_has_a_reason() -> None:
    frame = encoded(12)
    with pytest.raises(NotScorable):
        read_pixels(dataset(FILM, frame[:60], 12), 0, JPEG2000Lossless)
