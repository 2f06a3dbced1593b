"""Chest films as stored objects, for tests that read them back."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

__all__ = ["dx_object"]


def dx_object(pixels: npt.NDArray[np.uint16], **changes: Any) -> tuple[bytes, int]:
    """A Part 10 object of a 12-bit film and the offset of its data set."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film = Dataset()
    film.file_meta = meta
    film.SOPClassUID = meta.MediaStorageSOPClassUID
    film.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    film.Modality = "DX"
    film.Rows, film.Columns = pixels.shape
    film.SamplesPerPixel, film.PhotometricInterpretation = 1, "MONOCHROME2"
    film.BitsAllocated, film.BitsStored, film.HighBit, film.PixelRepresentation = 16, 12, 11, 0
    film.PixelData = pixels.astype("<u2").tobytes()
    for keyword, value in changes.items():
        setattr(film, keyword, value)
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, film, enforce_file_format=True)
    content = buffer.getvalue()
    return content, 144 + int.from_bytes(content[140:144], "little")  # (0002,0000) stands first (PS3.10 7.1)
