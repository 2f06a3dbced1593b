"""Pictures of instances: windows, photometric interpretations, limits and broken pixels (PS3.3 C.7.6.3, C.11)."""

from __future__ import annotations

import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import JPEGBaseline8Bit, RLELossless

from api import rendering
from api.rendering import Picture, Rendered
from pacs.frames import open_image
from storage.errors import InvalidDataSet

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from archive import part10
from objects import kept


def render(file: BytesIO, asked: Picture, *, max_pixels: int) -> Rendered:
    """The picture of an object in a store of its own."""
    with tempfile.TemporaryDirectory() as folder:
        store, stored = kept(file, Path(folder))
        return rendering.render(open_image(store, stored), asked, max_pixels=max_pixels)


def picture(file: BytesIO, *, max_pixels: int = 1_000_000, **asked: Any) -> np.ndarray:
    body = render(file, Picture(**asked), max_pixels=max_pixels).body
    return cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)


RAMP = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)


def test_window_of_the_request_is_linear_as_ps3_3_c_11_2_1_2_1_says() -> None:
    got = picture(part10(RAMP), center=2048, width=1024).astype(int)
    values = RAMP.astype(float)
    wanted = np.clip((values - 2047.5) / 1023 + 0.5, 0, 1) * 255
    assert np.abs(got - wanted).max() <= 0.51


def test_window_of_the_file_is_used_and_told() -> None:
    file = part10(RAMP, WindowCenter=[1000, 5], WindowWidth=[200, 5])
    result = render(file, Picture(), max_pixels=1000)
    assert result.window == (1000, 200)
    assert result.values == (0, 4080)
    got = picture(file)
    assert got[RAMP <= 896].max() == 0
    assert got[RAMP >= 1104].min() == 255


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_voi_lut_function_is_obeyed(function: str) -> None:
    got = picture(part10(RAMP, WindowCenter=2048, WindowWidth=1024, VOILUTFunction=function)).astype(int)
    at = (RAMP.astype(float) - 2048) / 1024
    wanted = np.clip(at + 0.5, 0, 1) if function == "LINEAR_EXACT" else 1 / (1 + np.exp(-4 * at))
    assert np.abs(got - 255 * wanted).max() <= 0.51


def test_rescale_comes_before_the_window() -> None:
    file = part10(RAMP, RescaleSlope=2, RescaleIntercept=-1000)
    assert (picture(file, center=2 * 2048 - 1000, width=2) == np.where(RAMP > 2047, 255, 0)).all()


@pytest.mark.parametrize(("bits", "kind"), [(16, "<u2"), (8, "<u2"), (8, "u1")])
def test_voi_lut_sequence(bits: int, kind: str) -> None:
    table = Dataset()
    table.LUTDescriptor = [4096, 0, bits]
    table.LUTData = np.where(np.arange(4096) < 2000, 0, 2**bits - 1).astype(kind).tobytes()
    got = picture(part10(RAMP, BitsStored=12, HighBit=11, VOILUTSequence=[table]))
    assert (got == np.where(RAMP < 2000, 0, 255)).all()


def test_monochrome1_is_inverted_after_the_window() -> None:
    asked = {"center": 2048, "width": 4096}
    dark, light = picture(part10(RAMP, photometric="MONOCHROME1"), **asked), picture(part10(RAMP), **asked)
    assert np.abs(dark.astype(int) + light.astype(int) - 255).max() <= 1


def test_without_a_window_the_middle_of_the_values_is_spread_out_and_padding_left_out() -> None:
    pixels = RAMP.astype(np.int16) + 1000
    pixels[0, :] = -2000
    got = picture(part10(pixels, PixelPaddingValue=-2000))
    assert got[1, 0] < 10
    assert got[15, 15] > 245


def test_signed_values_keep_their_order() -> None:
    got = picture(part10(np.linspace(-1000, 1000, 256).astype(np.int16).reshape(16, 16)))
    assert (np.diff(got.ravel().astype(int)) >= 0).all()


def test_colour_passes() -> None:
    rgb = np.zeros((8, 8, 3), np.uint8)
    rgb[:4, :, 0] = 200
    rgb[4:, :, 2] = 100
    got = picture(part10(rgb, photometric="RGB"))
    assert (got[0, 0] == (0, 0, 200)).all()  # OpenCV reads blue, green, red
    assert (got[7, 7] == (100, 0, 0)).all()
    assert render(part10(rgb, photometric="RGB"), Picture(), max_pixels=1000).window is None


def test_longer_side_has_the_size_asked_for_and_small_images_stay_small() -> None:
    wide = np.zeros((50, 200), np.uint16)
    assert picture(part10(wide), size=100).shape == (25, 100)
    assert picture(part10(wide), size=1).shape == (1, 1)
    assert picture(part10(wide), size=4096).shape == (50, 200)


def test_frames_are_chosen_by_number() -> None:
    frames = np.stack([np.full((4, 4), value, np.uint8) for value in (10, 200)])
    file = part10(frames)
    assert picture(file, frame=2, center=128, width=256)[0, 0] > picture(file, frame=1, center=128, width=256)[0, 0]
    with pytest.raises(InvalidDataSet, match="2 frames"):
        render(file, Picture(frame=3), max_pixels=1000)


def test_compressed_and_jpeg_out() -> None:
    asked = {"center": 2048, "width": 4096}
    assert (picture(part10(RAMP, syntax=RLELossless), **asked) == picture(part10(RAMP), **asked)).all()
    body = render(part10(RAMP), Picture(format="jpeg"), max_pixels=1000).body
    assert body[:3] == b"\xff\xd8\xff"


def test_too_many_pixels_are_refused_before_any_is_decoded() -> None:
    with pytest.raises(InvalidDataSet, match="too large"):
        render(part10(RAMP, Rows=30_000, Columns=30_000), Picture(), max_pixels=64_000_000)


def test_compressed_image_larger_than_its_header_is_refused_before_it_is_decoded() -> None:
    _, coded = cv2.imencode(".jpg", np.zeros((300, 300), np.uint8))
    frame = coded.tobytes() + b"\0" * (len(coded) % 2)
    item = b"\xfe\xff\x00\xe0"
    value = item + bytes(4) + item + len(frame).to_bytes(4, "little") + frame + b"\xfe\xff\xdd\xe0" + bytes(4)
    file = part10(np.zeros((8, 8), np.uint8), syntax=JPEGBaseline8Bit, PixelData=value)
    with pytest.raises(InvalidDataSet, match="300 x 300"):
        render(file, Picture(), max_pixels=10_000)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"Rows": 0}, "no pixels"),
        ({"PixelData": b"\0\0"}, "cannot be decoded"),
        ({"PhotometricInterpretation": ""}, "no image"),
        ({"BitsAllocated": 7}, "cannot be decoded"),
    ],
)
def test_what_is_no_picture_says_why(broken: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidDataSet, match=reason):
        render(part10(RAMP, **broken), Picture(), max_pixels=1_000_000)


@pytest.mark.filterwarnings("ignore")  # pydicom wonders aloud
@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM\x02\0\0\0garbage"])
def test_what_is_not_dicom_says_so(content: bytes) -> None:
    with pytest.raises(InvalidDataSet):
        render(BytesIO(content), Picture(), max_pixels=1000)
