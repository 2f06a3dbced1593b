"""The head of a DICOM file: preamble, prefix and file meta information, written and read (PS3.10 7.1).

Also recognises data sets that were stored without it, as some old software does.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from pacs.scan import EXPLICIT_BIG_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from storage.errors import InvalidDataSet

__all__ = ["IMPLEMENTATION_CLASS_UID", "IMPLEMENTATION_VERSION_NAME", "FileHead", "file_meta", "read_head"]

IMPLEMENTATION_CLASS_UID = "2.25.226346678142002114094986738684642631173"  # from a UUID of our own (PS3.5 B.2)
IMPLEMENTATION_VERSION_NAME = "SANGLOC_0"  # at most 16 characters

_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
_PREFIX = bytes(128) + b"DICM"
_MAX_META_BYTES = 64 << 10
_MAX_UID_CHARACTERS, _MAX_AE_CHARACTERS = 64, 16
_SOP_CLASS, _SOP_UID, _TRANSFER_SYNTAX = 0x0002, 0x0003, 0x0010
_LONG_VRS = frozenset({b"OB", b"UN", b"OW", b"SQ", b"UT"})


@dataclass(frozen=True, slots=True)
class FileHead:
    """What stands before the data set of a file; the UIDs are '' where the file does not tell."""

    transfer_syntax: str
    sop_class: str
    sop_uid: str
    dataset_offset: int  # bytes


def file_meta(sop_class: str, sop_uid: str, transfer_syntax: str, source_aet: str = "") -> bytes:
    """Preamble, prefix and file meta information for a data set that is stored as it came (PS3.10 table 7.1-1).

    Takes any text, as objects with invalid UIDs are kept aside as well: what is too long is cut, what is not ASCII
    becomes '?'.
    """
    elements = (
        b"\x02\x00\x01\x00OB\0\0\x02\0\0\0\0\x01"
        + _element(0x0002, b"UI", sop_class, _MAX_UID_CHARACTERS)
        + _element(0x0003, b"UI", sop_uid, _MAX_UID_CHARACTERS)
        + _element(0x0010, b"UI", transfer_syntax, _MAX_UID_CHARACTERS)
        + _IMPLEMENTATION
        + (_element(0x0016, b"AE", source_aet, _MAX_AE_CHARACTERS) if source_aet else b"")
    )
    return _PREFIX + b"\x02\0\0\0UL\x04\0" + struct.pack("<I", len(elements)) + elements


def read_head(file: BinaryIO) -> FileHead | None:
    """The head of the file, which is read from its start; None when it is no DICOM file.

    A file without preamble and file meta is taken for DICOM when it starts like a data set (group 0002 or 0008); its
    transfer syntax is then guessed from the first element.

    Raises:
        InvalidDataSet: the file meta information is broken.
    """
    file.seek(0)
    start = file.read(len(_PREFIX) + 8)
    if start[128:132] == b"DICM":
        return _read_meta(file, len(_PREFIX))
    if start[:6] == b"\x02\0\0\0UL" or start[:6] == b"\x02\0\x10\0UI":
        return _read_meta(file, 0)
    return _guess(start, 0)


def _element(element: int, vr: bytes, text: str, limit: int) -> bytes:
    value = text[:limit].encode("ascii", "replace")
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value


def _read_meta(file: BinaryIO, offset: int) -> FileHead:
    """Walk over group 0002 (explicit VR little endian always, PS3.10 7.1); its group length is not believed."""
    file.seek(offset)
    data = file.read(_MAX_META_BYTES)
    values: dict[int, str] = {}
    at = 0
    while at + 8 <= len(data):
        group, element, vr, length = struct.unpack_from("<HH2sH", data, at)
        if group != 2:
            break
        at += 8
        if vr in _LONG_VRS:
            if at + 4 > len(data):
                break
            (length,) = struct.unpack_from("<I", data, at)
            at += 4
        values[element] = data[at : at + length].rstrip(b"\0 ").decode("latin-1")
        at += length
        if at > len(data):
            raise InvalidDataSet("The file meta information is broken or cut off (PS3.10 7.1)")
    syntax = values.get(_TRANSFER_SYNTAX, "")
    if not syntax:
        guessed = _guess(data[at : at + 8], offset + at)
        if guessed is None:
            raise InvalidDataSet("The file meta information has no Transfer Syntax UID (0002,0010)")
        syntax = guessed.transfer_syntax
    return FileHead(syntax, values.get(_SOP_CLASS, ""), values.get(_SOP_UID, ""), offset + at)


def _guess(start: bytes, offset: int) -> FileHead | None:
    """The transfer syntax of a data set that starts with group 0008 and an element that is not long."""
    vr, length = start[4:6], start[4:8]
    explicit = vr.isalpha() and vr.isupper()
    if start[:2] == b"\x08\0" and start[3:4] == b"\0":
        if explicit:
            return FileHead(_EXPLICIT_LITTLE_ENDIAN, "", "", offset)
        if length[1:] == b"\0\0\0":
            return FileHead(IMPLICIT_LITTLE_ENDIAN, "", "", offset)
    if start[:3] == b"\0\x08\0" and explicit:
        return FileHead(EXPLICIT_BIG_ENDIAN, "", "", offset)
    return None


_IMPLEMENTATION = _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID, _MAX_UID_CHARACTERS) + _element(
    0x0013, b"SH", IMPLEMENTATION_VERSION_NAME, _MAX_AE_CHARACTERS
)
