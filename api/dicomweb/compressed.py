"""Which transfer syntax compressed bulk data is of, from its media type or its first bytes (PS3.18 table 8.7.3-4)."""

from __future__ import annotations

from typing import IO

from pydicom.uid import AllTransferSyntaxes

from api.dicomweb.multipart import MediaType
from storage.errors import InvalidUID

__all__ = ["EXPLICIT", "is_encapsulated", "jpeg_syntax", "syntax_of"]

EXPLICIT = "1.2.840.10008.1.2.1"
_IMPLICIT = "1.2.840.10008.1.2"
_BIG_ENDIAN, _DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
_KNOWN = {str(uid): uid for uid in AllTransferSyntaxes}
_DEFAULTS = {
    "application/octet-stream": EXPLICIT,
    "": EXPLICIT,
    "image/jpeg": "",  # the standard says lossless, clients mean what they send: it is looked at
    "image/dicom-rle": "1.2.840.10008.1.2.5",
    "image/x-dicom-rle": "1.2.840.10008.1.2.5",
    "image/jls": "1.2.840.10008.1.2.4.80",
    "image/x-jls": "1.2.840.10008.1.2.4.80",
    "image/jp2": "1.2.840.10008.1.2.4.90",
    "image/jpx": "1.2.840.10008.1.2.4.92",
    "image/jphc": "1.2.840.10008.1.2.4.201",
    "image/jxl": "1.2.840.10008.1.2.4.110",
    "video/mpeg": "1.2.840.10008.1.2.4.100",
    "video/mp4": "1.2.840.10008.1.2.4.102",
    "video/h265": "1.2.840.10008.1.2.4.107",
}
_BY_SOF = {0xC0: "50", 0xC1: "51", 0xC3: "70"}  # baseline, extended, lossless


def syntax_of(media_type: MediaType) -> str:
    """The transfer syntax that a part says its bytes are in, '' where they have to be looked at.

    Raises `InvalidUID` for one that is not known, or in which bulk data does not come.
    """
    named = media_type.parameters.get("transfer-syntax")
    syntax = named if named is not None else _DEFAULTS.get(media_type.name)
    if syntax == "":
        return ""
    if syntax == _IMPLICIT:
        return EXPLICIT  # the value is the same
    if syntax not in _KNOWN or syntax in (_BIG_ENDIAN, _DEFLATED):
        raise InvalidUID("Bulk data comes in a media type or transfer syntax that is not taken")
    return str(syntax)


def is_encapsulated(syntax: str) -> bool:
    """Whether pixel data of this transfer syntax is a sequence of fragments (PS3.5 A.4)."""
    return syntax != EXPLICIT


def jpeg_syntax(file: IO[bytes], offset: int) -> str:
    """The transfer syntax of the JPEG stream at `offset`, by its frame header; raises `InvalidUID` for another one."""
    file.seek(offset)
    head = file.read(64 << 10)
    at = 2 if head[:2] == b"\xff\xd8" else len(head)
    while at + 4 <= len(head) and head[at] == 0xFF:
        if head[at + 1] in _BY_SOF:
            return f"1.2.840.10008.1.2.4.{_BY_SOF[head[at + 1]]}"
        at += 1 if head[at + 1] == 0xFF else 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    raise InvalidUID("A part is not JPEG of a kind that DICOM knows")
