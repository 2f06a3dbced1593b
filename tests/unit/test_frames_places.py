"""Where frames lie: offset tables, fragments without any, and damage (PS3.5 A.4, PS3.3 C.7.6.3.1.8)."""

from __future__ import annotations

import struct
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import JPEGLSLossless

from pacs.frames import Image, open_image
from storage.errors import InvalidDataSet

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from archive import part10
from objects import kept

FRAMES = [b"\xff\xd8" + bytes([number]) * (40 + 7 * number) + b"\xff\xd9" + b"\0" * (number % 2) for number in range(5)]


def image(
    folder: Path, pixel_data: bytes, *, frames: int = len(FRAMES), tables: tuple[bytes, bytes] | None = None
) -> Image:
    """An object with this encapsulated pixel data; nothing in it is decoded."""
    data = dcmread(part10(np.zeros((2, 2), np.uint8)))
    data.file_meta.TransferSyntaxUID = JPEGLSLossless
    data.NumberOfFrames = frames
    data.PixelData = pixel_data
    data["PixelData"].is_undefined_length = True
    data["PixelData"].VR = "OB"
    if tables:
        data.ExtendedOffsetTable, data.ExtendedOffsetTableLengths = tables
    file = BytesIO()
    data.save_as(file)
    return open_image(*kept(file, folder))


def item(data: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(data)) + data


NO_TABLE, END = item(b""), b"\xfe\xff\xdd\xe0\0\0\0\0"


@pytest.mark.parametrize("fragments", [1, 3])
@pytest.mark.parametrize("table", [True, False])
def test_frames_in_fragments(tmp_path: Path, fragments: int, table: bool) -> None:
    found = image(tmp_path, encapsulate(FRAMES, fragments_per_frame=fragments, has_bot=table))
    for index in (0, 4, 2):
        assert found.frame(index).rstrip(b"\0") == FRAMES[index].rstrip(b"\0")
        assert len(found.ranges(index) or []) == fragments


def test_extended_offset_table(tmp_path: Path) -> None:
    data, offsets, lengths = encapsulate_extended(FRAMES)
    found = image(tmp_path, data, tables=(offsets, lengths))
    assert [found.frame(index) for index in range(5)] == FRAMES


def test_one_frame_in_many_fragments(tmp_path: Path) -> None:
    whole = bytes(range(200))
    found = image(tmp_path, NO_TABLE + item(whole[:50]) + item(b"") + item(whole[50:]) + END, frames=1)
    assert found.frame(0) == whole


def test_a_table_that_makes_no_sense_is_not_believed(tmp_path: Path) -> None:
    for wrong in ([0, 0, 0, 0, 0], [4, 8, 12, 16, 20], [0, 9, 5, 20, 30]):
        data = item(struct.pack("<5I", *wrong)) + b"".join(map(item, FRAMES)) + END
        assert [image(tmp_path, data).frame(index) for index in range(5)] == FRAMES


@pytest.mark.parametrize(
    "pixel_data",
    [
        NO_TABLE + item(FRAMES[0]) + END,
        NO_TABLE + item(b"no end here") * 7 + END,
        NO_TABLE + END,
        NO_TABLE,
        b"\xfe\xff\x00\xe0",
        b"\xfe\xff\x00\xe0\xff\xff\xff\x0fgarbage",
    ],
    ids=["too few", "no ends", "none", "nothing", "cut", "garbage"],
)
def test_fragments_that_do_not_tell(tmp_path: Path, pixel_data: bytes) -> None:
    found = image(tmp_path, pixel_data)
    with pytest.raises(InvalidDataSet):
        found.frame(0)


def test_a_fragment_that_is_longer_than_the_object(tmp_path: Path) -> None:
    found = image(tmp_path, NO_TABLE + b"\xfe\xff\x00\xe0" + struct.pack("<I", 1 << 29) + b"few", frames=1)
    with pytest.raises(InvalidDataSet, match="cut off"):
        found.frame(0)
