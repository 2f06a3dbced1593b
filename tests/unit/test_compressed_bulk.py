"""The transfer syntax of bulk data, by its media type or by its first bytes (PS3.18 table 8.7.3-4)."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from api.dicomweb.compressed import EXPLICIT, is_encapsulated, jpeg_syntax, syntax_of
from api.dicomweb.multipart import MediaType
from storage.errors import InvalidUID


@pytest.mark.parametrize(
    ("media_type", "syntax"),
    [
        ("application/octet-stream", EXPLICIT),
        ("", EXPLICIT),
        ("application/octet-stream; transfer-syntax=1.2.840.10008.1.2", EXPLICIT),
        ("image/jpeg", ""),
        ('image/jpeg; transfer-syntax="1.2.840.10008.1.2.4.57"', "1.2.840.10008.1.2.4.57"),
        ("image/jls", "1.2.840.10008.1.2.4.80"),
        ("image/jp2;transfer-syntax=1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.91"),
        ("image/dicom-rle", "1.2.840.10008.1.2.5"),
        ("video/mp4", "1.2.840.10008.1.2.4.102"),
        ("application/octet-stream; transfer-syntax=1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.80"),
    ],
)
def test_syntax(media_type: str, syntax: str) -> None:
    assert syntax_of(MediaType.parse(media_type)) == syntax
    assert is_encapsulated(syntax) == (syntax != EXPLICIT)


@pytest.mark.parametrize(
    "media_type",
    [
        "image/png",
        "text/html",
        "image/jls; transfer-syntax=1.2.3",
        "image/jls; transfer-syntax=*",
        "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.2",
        "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1.99",
    ],
)
def test_what_is_not_taken(media_type: str) -> None:
    with pytest.raises(InvalidUID):
        syntax_of(MediaType.parse(media_type))


@pytest.mark.parametrize(("marker", "syntax"), [(0xC0, "50"), (0xC1, "51"), (0xC3, "70")])
def test_jpeg_by_its_frame_header(marker: int, syntax: str) -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    data[data.index(b"\xff\xc0") + 1] = marker
    assert jpeg_syntax(io.BytesIO(b"12345678" + data), 8) == f"1.2.840.10008.1.2.4.{syntax}"


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xc2" + bytes(20), b"\xff\xd8\xff\xff\xff", b"GIF89a" + bytes(99)]
)
def test_no_jpeg_of_dicom(data: bytes) -> None:
    with pytest.raises(InvalidUID):
        jpeg_syntax(io.BytesIO(data), 0)
