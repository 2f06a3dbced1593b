"""Objects on their way out in other transfer syntaxes: the same pixels, the same attributes."""

from __future__ import annotations

import sys
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from images import CT, DEFLATED, JPEG_2000, JPEG_LS, RLE, header, image, part10, pixels
from objects import kept
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit

from pacs import transcoding
from pacs.outgoing import open_outgoing
from storage.errors import NotTranscodable

EXPLICIT, IMPLICIT, BIG = str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian), str(ExplicitVRBigEndian)
TARGETS = (EXPLICIT, IMPLICIT, DEFLATED, JPEG_LS, JPEG_2000, RLE)
SOURCES = (EXPLICIT, IMPLICIT, BIG, DEFLATED, JPEG_LS, JPEG_2000, RLE)


def sent(file: bytes, folder: Path, *accepted: str, **over: Any) -> Dataset:
    """What a receiver of these transfer syntaxes gets."""
    outgoing = open_outgoing(*kept(BytesIO(file), folder, **over), accepted)
    whole = b"".join(map(bytes, outgoing.part10()))
    read = dcmread(BytesIO(whole))
    assert read.file_meta.TransferSyntaxUID == outgoing.transfer_syntax == accepted[0]
    return read


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
def test_pixels_and_attributes_survive(source: str, target: str, tmp_path: Path) -> None:
    array = pixels()
    codes = Dataset()
    codes.CodeValue, codes.CodeMeaning = "T-D3000", "Brust"
    file = image(array, source, PixelPaddingValue=7, ViewCodeSequence=Sequence([codes]), WindowCenter=[1, 2.5])
    got = sent(file, tmp_path, target)
    assert np.array_equal(got.pixel_array, array)
    assert (got.PixelPaddingValue, got.WindowCenter) == (7, [1, 2.5])
    assert got.ViewCodeSequence[0].CodeMeaning == "Brust"
    assert sorted(got.keys()) == sorted(dcmread(BytesIO(file)).keys())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", [EXPLICIT, BIG, JPEG_LS, RLE])
@pytest.mark.parametrize(
    "form",
    [
        {"frames": 5},
        {"samples": 3, "bits": 8},
        {"signed": True},
        {"bits": 8, "rows": 33, "columns": 41},
        {"bits": 8, "rows": 33, "columns": 41, "samples": 3},
    ],
    ids=["frames", "colour", "signed", "odd", "odd colour"],
)
def test_every_form_of_pixels(form: dict[str, Any], source: str, target: str, tmp_path: Path) -> None:
    array = pixels(**form)
    got = sent(image(array, source, samples=form.get("samples", 1)), tmp_path, target)
    assert np.array_equal(got.pixel_array, array)
    if "samples" in form:
        assert (got.PhotometricInterpretation, got.PlanarConfiguration) == ("RGB", 0)


def test_planes_are_woven_before_they_are_compressed(tmp_path: Path) -> None:
    array = pixels(samples=3, bits=8, frames=2)
    file = dcmread(BytesIO(image(array, samples=3)))
    file.PlanarConfiguration = 1
    file.PixelData = np.moveaxis(array, -1, 1).tobytes()
    got = sent(part10(file), tmp_path, JPEG_LS)
    assert np.array_equal(got.pixel_array, array)
    assert got.PlanarConfiguration == 0


@pytest.mark.parametrize("target", [EXPLICIT, JPEG_LS])
def test_every_frame_of_a_colour_jpeg_becomes_rgb(target: str, tmp_path: Path) -> None:
    array = np.zeros((3, 32, 48, 3), np.uint8)
    for frame, colour in enumerate(((200, 30, 30), (30, 200, 30), (30, 30, 200))):
        array[frame] = colour
    file = dcmread(BytesIO(image(array, samples=3)))
    streams = []
    for frame in array:
        buffer = BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=95, subsampling=0)
        streams.append(buffer.getvalue())
    file.PixelData = encapsulate(streams)
    file["PixelData"].is_undefined_length = True
    file.PhotometricInterpretation = "YBR_FULL"
    file.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    whole = BytesIO()
    file.save_as(whole, enforce_file_format=True)
    got = sent(whole.getvalue(), tmp_path, target)
    assert got.PhotometricInterpretation == "RGB"
    assert np.abs(got.pixel_array.astype(int) - array).max() <= 4


def test_values_of_every_kind_turn_from_big_endian(tmp_path: Path) -> None:
    file = header()
    file.PixelAspectRatio, file.Rows, file.SimpleFrameList = ["1", "2"], 5, [1, 70_000]
    file.SelectorFDValue, file.SelectorSLValue, file.FrameIncrementPointer = 2.5, -3, 0x00181063
    file.SelectorSVValue, file.SelectorUVValue, file.SelectorFLValue = -(2**40), 2**40, 0.5
    got = sent(part10(file, BIG), tmp_path, IMPLICIT)
    for keyword in ("Rows", "SimpleFrameList", "SelectorFDValue", "SelectorSLValue", "FrameIncrementPointer",
                    "SelectorSVValue", "SelectorUVValue", "SelectorFLValue", "PixelAspectRatio"):  # fmt: skip
        assert got[keyword].value == file[keyword].value


@pytest.mark.parametrize("value", [0, 1])
def test_signed_numbers_are_named_so_where_the_source_has_no_vr(value: int, tmp_path: Path) -> None:
    file = image(pixels(signed=bool(value)), IMPLICIT, PixelPaddingValue=5)
    got = sent(file, tmp_path, EXPLICIT)
    assert ("SS" if value else "US") == got["PixelPaddingValue"].VR


def test_elements_behind_the_pixels_go_too(tmp_path: Path) -> None:
    for source in (EXPLICIT, BIG, JPEG_LS):
        file = dcmread(BytesIO(image(pixels(), source)))
        file.DataSetTrailingPadding = b"\1\2"
        buffer = BytesIO()
        file.save_as(buffer, enforce_file_format=True)
        assert sent(buffer.getvalue(), tmp_path, IMPLICIT).DataSetTrailingPadding == b"\1\2"


def test_a_report_in_the_transfer_syntax_of_images(tmp_path: Path) -> None:
    file = bytearray(part10(header(ContentLabel="X")))
    syntax = file.index(b"1.2.840.10008.1.2.1\0")
    file[syntax : syntax + 20] = b"1.2.840.10008.1.2.5\0"
    assert sent(bytes(file), tmp_path, IMPLICIT).ContentLabel == "X"


def test_deflated_ends_even(tmp_path: Path) -> None:
    for length in range(4):
        store, instance = kept(BytesIO(image(pixels(), StudyDescription="x" * length)), tmp_path)
        out = b"".join(map(bytes, open_outgoing(store, instance, [DEFLATED]).chunks()))
        assert len(out) % 2 == 0
        assert dcmread(BytesIO(zlib.decompressobj(-15).decompress(out)), force=True).StudyDescription == "x" * length


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"BitsAllocated": 1}, "1 bits"),
        ({"NumberOfFrames": "x"}, "no number"),
        ({"NumberOfFrames": 9}, "cut off"),
        ({"PhotometricInterpretation": "YBR_FULL_422"}, "chroma"),
        ({"Rows": None}, "rows"),
    ],
    ids=["bits", "number", "frames", "chroma", "rows"],
)
def test_what_cannot_be_compressed_says_why(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = dcmread(BytesIO(image(pixels())))
    for name, value in change.items():
        if value is None:
            delattr(file, name)
        elif value == "x":
            file._dict[file.data_element("Rows").tag.__class__(0x00280008)] = bad_number()
        else:
            setattr(file, name, value)
    with pytest.raises(NotTranscodable, match=message):
        sent(part10(file), tmp_path, JPEG_LS)


def bad_number() -> Any:
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    return RawDataElement(Tag(0x00280008), "IS", 2, b"x ", 0, False, True)


def test_damaged_frames_say_so(tmp_path: Path) -> None:
    for source in (RLE, JPEG_LS):  # a damaged JPEG 2000 stream is a worse picture
        file = bytearray(image(pixels(), source))
        file[-600:-100] = bytes(500)
        with pytest.raises(NotTranscodable, match="decoded"):
            sent(bytes(file), tmp_path, EXPLICIT)


def test_what_nobody_decodes_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    store, instance = kept(BytesIO(image(pixels())), tmp_path, transfer_syntax="1.2.840.10008.1.2.4.102")
    with pytest.raises(NotTranscodable):
        open_outgoing(store, instance, [EXPLICIT, IMPLICIT])
    with pytest.raises(NotTranscodable):
        open_outgoing(*kept(BytesIO(image(pixels())), tmp_path), [BIG])  # retired: nobody is made to read it


def test_every_syntax_that_pydicom_decodes_is_decoded() -> None:
    from pydicom.pixels.decoders.base import _PIXEL_DATA_DECODERS

    for syntax in _PIXEL_DATA_DECODERS:
        assert transcoding.can_make(str(syntax), EXPLICIT), syntax
    assert CT not in transcoding.NATIVE
