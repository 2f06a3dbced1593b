"""Elements of a data set by place: every encoding, nesting, damage (PS3.5 7)."""

from __future__ import annotations

import contextlib
import struct
import sys
import zlib
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pacs.elements import DataSet, Element, inflated, read_header
from storage.errors import InvalidDataSet

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from objects import kept

SYNTAXES = {
    ExplicitVRLittleEndian: (False, True),
    ImplicitVRLittleEndian: (True, True),
    ExplicitVRBigEndian: (False, False),
}


def encoded(data: Dataset, syntax: str) -> bytes:
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = SYNTAXES[syntax]
    write_dataset(out, data)
    return out.getvalue()


def nested(depth: int, *, undefined: bool) -> Dataset:
    """A sequence in a sequence in a sequence."""
    data = Dataset()
    data.PatientID = f"at {depth}"
    if depth:
        data.ReferencedStudySequence = Sequence([nested(depth - 1, undefined=undefined), Dataset()])
        data["ReferencedStudySequence"].is_undefined_length = undefined
        for item in data.ReferencedStudySequence:
            item.is_undefined_length_sequence_item = undefined
    data.Rows = 7
    return data


def found(data_set: DataSet) -> dict[int, Element]:
    return {one.tag: one for one in data_set.elements()}


@pytest.mark.parametrize("syntax", SYNTAXES, ids=["explicit", "implicit", "big"])
@pytest.mark.parametrize("undefined", [True, False])
def test_nested_sequences(syntax: str, undefined: bool) -> None:
    data_set = DataSet.of(b"head" + encoded(nested(5, undefined=undefined), syntax), 4, syntax)
    for depth in range(5, 0, -1):
        inside = found(data_set)
        assert data_set.value(inside[0x00100020]).strip() == f"at {depth}".encode()
        assert data_set.value(inside[0x00280010]) in (b"\7\0", b"\0\7")
        first, empty = data_set.items(inside[0x00081110])
        assert list(empty.elements()) == []
        data_set = first


def test_what_is_declared_wrong_is_read_all_the_same() -> None:
    data = nested(1, undefined=True)
    for real, told in (
        (ImplicitVRLittleEndian, ExplicitVRLittleEndian),
        (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
    ):
        inside = found(DataSet.of(encoded(data, real), 0, told))
        assert [one.vr for one in inside.values()] == ["SQ", "LO", "US"]


def test_an_element_without_vr_and_one_of_an_unknown_vr() -> None:
    raw = struct.pack("<HHI", 0x0008, 0x0060, 2) + b"CT"
    raw += struct.pack("<HH2sHI", 0x0010, 0x0010, b"ZZ", 0, 4) + b"A^B "
    data_set = DataSet.of(struct.pack("<HH2sH", 8, 5, b"CS", 0) + raw, 0, ExplicitVRLittleEndian)
    inside = found(data_set)
    assert (inside[0x00080060].vr, data_set.value(inside[0x00080060])) == ("CS", b"CT")
    assert (inside[0x00100010].vr, data_set.value(inside[0x00100010])) == ("ZZ", b"A^B ")


def test_pixel_data_ends_the_walk() -> None:
    native = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 1 << 20) + b"few"
    (pixels,) = DataSet.of(native, 0, ExplicitVRLittleEndian).elements()
    assert (pixels.start, pixels.end) == (12, 12 + (1 << 20))
    packed = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\0\0\0\0"
    (pixels,) = DataSet.of(packed, 0, ExplicitVRLittleEndian).elements()
    assert (pixels.start, pixels.end, pixels.undefined) == (12, -1, True)


def test_sequences_too_deep_are_refused() -> None:
    head = struct.pack("<HH2sHI", 0x0008, 0x1110, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    with pytest.raises(InvalidDataSet, match="deep"):
        list(DataSet.of(head * 5000, 0, ExplicitVRLittleEndian).elements())


def walk(data_set: DataSet, budget: list[int]) -> None:
    """Everything that can be reached."""
    for element in data_set.elements():
        budget[0] -= 1
        if element.vr == "SQ" and budget[0] > 0:
            for item in data_set.items(element):
                walk(item, budget)


@given(st.binary(max_size=400), st.sampled_from(list(SYNTAXES)))
def test_any_bytes_end_in_elements_or_in_a_clear_error(data: bytes, syntax: str) -> None:
    with contextlib.suppress(InvalidDataSet):
        walk(DataSet.of(data, 0, syntax), [1000])


@given(st.integers(0, 400), st.binary(min_size=1, max_size=4), st.sampled_from(list(SYNTAXES)))
def test_damaged_data_sets(place: int, damage: bytes, syntax: str) -> None:
    data = bytearray(encoded(nested(4, undefined=place % 2 == 0), syntax))
    data[place % len(data) : place % len(data) + len(damage)] = damage
    with contextlib.suppress(InvalidDataSet):
        walk(DataSet.of(bytes(data), 0, syntax), [1000])


def test_places_are_those_of_pydicom() -> None:
    data = nested(2, undefined=False)
    raw = encoded(data, ExplicitVRLittleEndian)
    data_set = DataSet.of(raw, 0, ExplicitVRLittleEndian)
    again = pydicom.filereader.read_dataset(BytesIO(raw), False, True)
    for element in data_set.elements():
        wanted = again.get_item(element.tag)
        assert (element.vr, element.start) == (wanted.VR, wanted.value_tell if wanted.is_raw else wanted.file_tell)


@pytest.mark.parametrize("comment", [10, 200_000])
def test_of_a_deflated_object_only_the_header_is_inflated(tmp_path: Path, comment: int) -> None:
    """However large the pixels say they are."""
    raw = struct.pack("<HH2sHI", 0x0008, 0x1110, b"UT", 0, comment) + b"x" * comment
    raw += struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 1 << 30) + bytes(50 << 20)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(raw) + packer.flush()
    syntax = "1.2.840.10008.1.2.1.99"
    store, instance = kept(BytesIO(packed), tmp_path, transfer_syntax=syntax, dataset_offset=0)
    data_set, (text, pixels) = read_header(store, instance)
    assert len(data_set.data) < 1 << 20
    assert (text.end - text.start, pixels.end - pixels.start) == (comment, 1 << 30)
    assert inflated(store, instance) == raw
