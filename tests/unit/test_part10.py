"""The head of a DICOM file, PS3.10 7.1: written for pydicom to read, read from whatever is found on disks."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pydicom
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from elements import BIG, CT, EXPLICIT, IMPLICIT, ROOT, data_set, element, head

from pacs.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, FileHead, file_meta, read_head
from storage.errors import InvalidDataSet
from storage.uid import UID

UID_1 = f"{ROOT}.3.1"


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
@pytest.mark.parametrize("aet", ["", "CT1", "SIXTEEN_CHARS_AE"])
def test_what_is_written_is_what_pydicom_reads(syntax: str, aet: str) -> None:
    meta = file_meta(CT, UID_1, syntax, aet)
    read = pydicom.dcmread(io.BytesIO(meta + data_set(syntax)))
    assert read.Rows == 512
    assert read.file_meta.FileMetaInformationGroupLength == len(meta) - 144
    assert read.file_meta.FileMetaInformationVersion == b"\0\1"
    assert read.file_meta.MediaStorageSOPClassUID == CT
    assert read.file_meta.MediaStorageSOPInstanceUID == UID_1
    assert read.file_meta.TransferSyntaxUID == syntax
    assert read.file_meta.get("SourceApplicationEntityTitle", "") == aet
    assert read_head(io.BytesIO(meta + data_set(syntax))) == FileHead(syntax, CT, UID_1, len(meta))


def test_our_own_identity_fits_the_standard() -> None:
    assert UID(IMPLEMENTATION_CLASS_UID) == IMPLEMENTATION_CLASS_UID
    assert len(IMPLEMENTATION_VERSION_NAME) <= 16


@pytest.mark.parametrize("uid", ["../../etc/passwd", "1" * 500, "Đ\0\n", ""])
def test_any_text_can_be_written_so_that_bad_objects_can_be_kept_aside(uid: str) -> None:
    meta = file_meta(uid, uid, EXPLICIT, uid)
    found = read_head(io.BytesIO(meta + data_set()))
    assert found is not None
    assert found.dataset_offset == len(meta)
    assert found.transfer_syntax == EXPLICIT
    assert len(found.sop_uid) <= 64


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
def test_a_bare_data_set_is_recognised(syntax: str) -> None:
    data = element(0x00080005, "CS", "ISO_IR 100", syntax) + data_set(syntax)
    assert read_head(io.BytesIO(data)) == FileHead(syntax, "", "", 0)


def test_file_meta_without_preamble() -> None:
    meta = file_meta(CT, UID_1, IMPLICIT)[132:]
    assert read_head(io.BytesIO(meta + data_set(IMPLICIT))) == FileHead(IMPLICIT, CT, UID_1, len(meta))


def test_a_missing_or_wrong_group_length_is_not_believed() -> None:
    meta = file_meta(CT, UID_1, EXPLICIT)
    wrong = meta[:140] + b"\xff\0\0\0" + meta[144:]
    without = meta[:132] + meta[144:]
    assert read_head(io.BytesIO(wrong + data_set())) == FileHead(EXPLICIT, CT, UID_1, len(meta))
    assert read_head(io.BytesIO(without + data_set())) == FileHead(EXPLICIT, CT, UID_1, len(without))


def test_a_missing_transfer_syntax_is_guessed() -> None:
    prefix = bytes(128) + b"DICM" + element(0x00020003, "UI", UID_1)
    found = read_head(io.BytesIO(prefix + element(0x00080005, "CS", "ISO_IR 6", IMPLICIT) + data_set(IMPLICIT)))
    assert found == FileHead(IMPLICIT, "", UID_1, len(prefix))
    with pytest.raises(InvalidDataSet, match="no Transfer Syntax"):
        read_head(io.BytesIO(prefix))


def test_file_meta_that_is_cut_off() -> None:
    with pytest.raises(InvalidDataSet, match="cut off"):
        read_head(io.BytesIO(bytes(128) + b"DICM" + head(0x00020010, "UI", 100) + b"1.2"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n" + bytes(300),
        b"hello, world" * 30,
        bytes(1000),
        b"\xff\xd8\xff\xe0" * 100,
        b"\x08\0",
        b"\x08\0\x05\0abcd",
    ],
)
def test_other_files_are_no_dicom(content: bytes) -> None:
    assert read_head(io.BytesIO(content)) is None
