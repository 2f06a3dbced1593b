"""From stored pixels to the image that is shown: every rule with pixels whose answer is known."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import RLELosslessEncoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from inference.pixels import read_pixels
from storage.errors import NotScorable

RAMP = np.tile(np.arange(0, 4096, 16, dtype=np.uint16), (300, 1))  # 300 x 256, left to right 0..4080


def encode(pixels: npt.NDArray[Any], syntax: UID = ExplicitVRLittleEndian, **changes: Any) -> bytes:
    """The data set (no file meta) of a grey image; `changes` by keyword, None removes the attribute."""
    header = Dataset()
    header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    header.SOPInstanceUID = "1.2.3"
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated = 8 * pixels.itemsize
    header.BitsStored = 12 if pixels.itemsize == 2 else 8
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = int(pixels.dtype.kind == "i")
    header.PixelData = pixels.astype(pixels.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")).tobytes()
    for keyword, value in changes.items():
        if value is None:
            delattr(header, keyword)
        else:
            setattr(header, keyword, value)
    return write(header, syntax)


def write(header: Dataset, syntax: UID) -> bytes:
    header["PixelData"].VR = "OW" if header.BitsAllocated > 8 else "OB"
    header["PixelData"].is_undefined_length = syntax.is_encapsulated
    buffer = BytesIO()
    pydicom.dcmwrite(
        buffer, header, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian, force_encoding=True
    )
    if syntax != DeflatedExplicitVRLittleEndian:
        return buffer.getvalue()
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(buffer.getvalue()) + deflater.flush()


def compressed(frame: bytes | bytearray, syntax: UID, **changes: Any) -> bytes:
    return encode(RAMP, syntax, **{"PixelData": encapsulate([bytes(frame)]), **changes})


def read(dataset: bytes, syntax: UID = ExplicitVRLittleEndian, **options: Any) -> npt.NDArray[np.uint8]:
    return read_pixels(dataset, 0, syntax, **options)


def image_or_reason(dataset: bytes, syntax: UID) -> npt.NDArray[np.uint8] | str:
    try:
        return read(dataset, syntax)
    except NotScorable as reason:
        return str(reason)


def window(pixels: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    """What a linear window from `low` to `high` shows."""
    return np.rint(np.clip((pixels.astype(np.float64) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def close(image: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8]) -> bool:
    return image.shape == expected.shape and int(np.abs(image.astype(int) - expected.astype(int)).max()) <= 1


WINDOW: dict[str, Any] = {"WindowCenter": 2048.5, "WindowWidth": 4097}  # exactly 0 to 4096 (PS3.3 C.11.2.1.2.1)


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16])
def test_native_pixels_in_every_encoding(syntax: UID, dtype: type) -> None:
    pixels: npt.NDArray[Any] = np.tile(np.arange(0, 121, dtype=dtype), (65, 1))  # an odd count of bytes as well
    image = read(encode(pixels, syntax, WindowCenter=60.5, WindowWidth=121), syntax)
    assert close(image, window(pixels, 0, 120))


CODECS: list[tuple[UID, Callable[[], bytes | bytearray]]] = [
    (JPEGLSLossless, lambda: imagecodecs.jpegls_encode(RAMP)),
    (JPEGLosslessSV1, lambda: imagecodecs.ljpeg_encode(RAMP, bitspersample=12)),
    (JPEG2000Lossless, lambda: imagecodecs.jpeg2k_encode(RAMP, codecformat="j2k", level=0, reversible=True)),
    (HTJ2KLossless, lambda: imagecodecs.htj2k_encode(RAMP)),
    (RLELossless, lambda: RLELosslessEncoder.encode(RAMP, encoding_plugin="pydicom",
        rows=300, columns=256, samples_per_pixel=1, bits_allocated=16, bits_stored=12, pixel_representation=0,
        photometric_interpretation="MONOCHROME2", number_of_frames=1)),
]  # fmt: skip


@pytest.mark.parametrize(("syntax", "frame"), CODECS, ids=lambda value: getattr(value, "name", None))
def test_lossless_compression_gives_the_same_image(syntax: UID, frame: Callable[[], bytes | bytearray]) -> None:
    assert close(read(compressed(frame(), syntax, **WINDOW), syntax), window(RAMP, 0, 4096))


@pytest.mark.parametrize(("syntax", "frame"), CODECS[:-1], ids=lambda value: getattr(value, "name", None))
def test_a_frame_in_many_fragments_gives_the_same_image(syntax: UID, frame: Callable[[], bytes | bytearray]) -> None:
    parts = encapsulate([bytes(frame())], fragments_per_frame=3)
    assert close(read(encode(RAMP, syntax, PixelData=parts, **WINDOW), syntax), window(RAMP, 0, 4096))


@pytest.mark.filterwarnings("ignore:The pixel data:UserWarning", "ignore:Unable to determine:UserWarning")
@pytest.mark.parametrize(("syntax", "frame"), CODECS, ids=lambda value: getattr(value, "name", None))
@pytest.mark.parametrize("keep", [0.001, 0.02, 0.5])
def test_a_cut_off_frame_is_an_image_or_a_reason(
    syntax: UID, frame: Callable[[], bytes | bytearray], keep: float
) -> None:
    whole = frame()
    image = image_or_reason(compressed(whole[: max(8, int(len(whole) * keep))], syntax, **WINDOW), syntax)
    assert isinstance(image, str) or image.shape == RAMP.shape


def test_monochrome1_is_turned_over() -> None:
    assert close(read(encode(RAMP, PhotometricInterpretation="MONOCHROME1", **WINDOW)), 255 - window(RAMP, 0, 4096))


def test_rescale_comes_before_the_window() -> None:
    image = read(encode(RAMP, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=1000.5, WindowWidth=2001))
    assert close(image, window(RAMP.astype(int) * 2 - 1000, 0, 2000))


def test_the_first_of_several_windows_counts() -> None:
    image = read(encode(RAMP, WindowCenter=[1000.5, 99], WindowWidth=[2001, 1]))
    assert close(image, window(RAMP, 0, 2000))


def test_linear_exact_and_sigmoid_windows() -> None:
    exact = read(encode(RAMP, WindowCenter=1000, WindowWidth=2000, VOILUTFunction="LINEAR_EXACT"))
    assert close(exact, window(RAMP, 0, 2000))
    sigmoid = read(encode(RAMP, WindowCenter=2048, WindowWidth=1000, VOILUTFunction="SIGMOID"))
    values = RAMP.astype(np.float64)
    assert close(sigmoid, np.rint(255 / (1 + np.exp(-4 * (values - 2048) / 1000))).astype(np.uint8))


@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_voi_lut_counts_before_the_window(vr: str, syntax: UID) -> None:
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table["LUTDescriptor"].VR = "US"
    values = np.minimum(np.arange(4096) * 32, 65535)
    order = "<" if syntax.is_little_endian else ">"
    table.add_new("LUTData", vr, values.tolist() if vr == "US" else values.astype(f"{order}u2").tobytes())
    image = read(encode(RAMP, syntax, VOILUTSequence=[table], **WINDOW), syntax)
    assert close(image, window(RAMP, 0, 65535 / 32))


def test_a_broken_voi_lut_gives_way_to_the_window() -> None:
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table["LUTDescriptor"].VR = "US"
    assert close(read(encode(RAMP, VOILUTSequence=[table], **WINDOW)), window(RAMP, 0, 4096))


@pytest.mark.parametrize(
    "useless", [{}, {"WindowCenter": 30000, "WindowWidth": 10}, {"WindowCenter": 2000, "WindowWidth": 0}]
)
def test_without_a_useful_window_the_percentiles_of_the_image_are_shown(useless: dict[str, Any]) -> None:
    low, high = np.quantile(RAMP, (0.005, 0.995))
    assert close(read(encode(RAMP, **useless)), window(RAMP, float(low), float(high)))


def test_padding_is_black_and_does_not_stretch_the_window() -> None:
    padded = RAMP.copy()
    padded[:100] = 4095  # a shutter, brighter than everything
    image = read(encode(padded, PixelPaddingValue=4095))
    assert int(image[:100].max()) == 0
    assert int(image[100:, -1].min()) == 255
    dark = read(encode(padded, PixelPaddingValue=4095, PhotometricInterpretation="MONOCHROME1"))
    assert int(dark[:100].max()) == 0


def test_bits_above_bits_stored_are_not_part_of_the_pixel() -> None:
    overlaid = RAMP | 0x8000
    assert close(read(encode(overlaid, **WINDOW)), window(RAMP, 0, 4096))
    shifted = read(encode(RAMP << 4, HighBit=15, **WINDOW))
    assert close(shifted, window(RAMP, 0, 4096))


def test_negative_pixels_of_fewer_bits_keep_their_sign() -> None:
    signed = (RAMP.astype(np.int16) - 2048) & 0x0FFF  # 12-bit two's complement with clear high bits
    image = read(encode(signed.astype(np.int16), WindowCenter=0.5, WindowWidth=4097))
    assert close(image, window(RAMP, 0, 4096))


def test_a_large_image_is_made_small_and_keeps_its_shape() -> None:
    large = np.repeat(np.repeat(RAMP, 8, axis=0), 4, axis=1)  # 2400 x 1024
    assert read(encode(large, **WINDOW), max_side=512).shape == (512, 218)


def test_the_data_set_starts_behind_the_file_meta() -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    prefix = bytes(128) + b"DICM" + bytes(40)
    assert close(
        read_pixels(prefix + encode(RAMP, **WINDOW), len(prefix), ExplicitVRLittleEndian), window(RAMP, 0, 4096)
    )


@pytest.mark.parametrize(
    ("dataset", "syntax", "told"),
    [
        (encode(RAMP, Rows=0), ExplicitVRLittleEndian, "0 rows or columns"),
        (encode(RAMP, Rows=30_000, Columns=30_000), ExplicitVRLittleEndian, "too large"),
        (encode(RAMP, Rows=65_535, Columns=1), ExplicitVRLittleEndian, "too large"),
        (encode(RAMP, NumberOfFrames=2), ExplicitVRLittleEndian, "2 frames"),
        (encode(RAMP, PhotometricInterpretation="RGB", SamplesPerPixel=3), ExplicitVRLittleEndian, "grey image: RGB"),
        (encode(RAMP, Rows=301), ExplicitVRLittleEndian, "truncated: 153,600 of 154,112 bytes"),
        (encode(RAMP)[:-5000], ExplicitVRLittleEndian, "truncated"),
        (encode(RAMP, BitsStored=20), ExplicitVRLittleEndian, "20 bits stored in 16"),
        (encode(RAMP // 5000), ExplicitVRLittleEndian, "blank"),
        (encode(RAMP, PresentationIntentType="FOR PROCESSING"), ExplicitVRLittleEndian, "For Processing"),
        (encode(RAMP), JPEGLSLossless, "not in fragments"),
        (compressed(b"\x00" * 64, UID("1.2.840.10008.1.2.4.100")), UID("1.2.840.10008.1.2.4.100"), "cannot be decoded"),
        (encode(RAMP)[:60], ExplicitVRLittleEndian, "0 rows or columns"),
        (b"", ExplicitVRLittleEndian, "0 rows or columns"),
        (b"not deflated", DeflatedExplicitVRLittleEndian, "cannot be decoded"),
    ],
)
def test_what_cannot_be_read_has_a_reason(dataset: bytes, syntax: UID, told: str) -> None:
    with pytest.raises(NotScorable, match=told):
        read(dataset, syntax)


def test_an_image_without_pixel_data_has_a_reason() -> None:
    dataset = encode(RAMP)
    with pytest.raises(NotScorable, match="Pixel Data is missing"):
        read(dataset[: dataset.index(b"\xe0\x7f\x10\x00")])


def test_a_small_header_cannot_ask_for_a_huge_code_stream() -> None:
    frame = bytearray(imagecodecs.jpegls_encode(RAMP))
    at = frame.index(b"\xff\xf7") + 5
    frame[at : at + 4] = b"\xff\xff\xff\xff"  # 65,535 x 65,535
    with pytest.raises(NotScorable, match="65535 x 65535 pixels, its header says 256 x 300"):
        read(compressed(bytes(frame), JPEGLSLossless), JPEGLSLossless)


def test_a_deflated_data_set_cannot_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.decoding._MAX_INFLATED_BYTES", 100_000)
    with pytest.raises(NotScorable, match="larger than any radiograph"):
        read(encode(RAMP, DeflatedExplicitVRLittleEndian), DeflatedExplicitVRLittleEndian)


def test_a_lateral_view_by_its_code_has_a_reason() -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "399173006", "SCT", "left lateral"
    with pytest.raises(NotScorable, match="left lateral"):
        read(encode(RAMP, ViewCodeSequence=[code]))
    assert read(encode(RAMP, ViewCodeSequence=[code], ViewPosition="PA")).shape == RAMP.shape


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_give_an_image_or_a_reason(data: st.DataObject) -> None:
    syntax = data.draw(
        st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
    )
    damaged = bytearray(encode(RAMP[:32, :64], syntax, **WINDOW))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, min(len(damaged) - 1, 220)))] = data.draw(st.integers(0, 255))
    image = image_or_reason(bytes(damaged), syntax)
    assert image if isinstance(image, str) else image.dtype == np.uint8 and image.ndim == 2
