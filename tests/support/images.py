"""Small images as Part 10 files, in every native encoding and compressed."""

from __future__ import annotations

import itertools
from io import BytesIO
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

ROOT = "1.2.826.0.1.3680043.9997"
CT = "1.2.840.10008.5.1.4.1.1.2"
RLE, JPEG_LS, JPEG_2000 = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"
DEFLATED = "1.2.840.10008.1.2.1.99"
_PLUGINS = {RLE: "pylibjpeg", JPEG_LS: "pyjpegls", JPEG_2000: "pylibjpeg"}
_numbers = itertools.count(1)


def pixels(
    rows: int = 64, columns: int = 48, *, frames: int = 1, samples: int = 1, bits: int = 16, signed: bool = False
) -> np.ndarray:
    """A gradient with noise: [frames,] rows, columns [, samples]."""
    rng = np.random.default_rng(rows + columns + frames + samples + bits)
    shape = ((frames,) if frames > 1 else ()) + (rows, columns) + ((samples,) if samples > 1 else ())
    values = rng.integers(0, 1 << min(bits, 12), shape)
    if signed:
        values -= 1 << (min(bits, 12) - 1)
    return values.astype(f"{'i' if signed else 'u'}{bits // 8}")


def image(array: np.ndarray, syntax: str = ExplicitVRLittleEndian, *, samples: int = 1, **over: Any) -> bytes:
    """A Part 10 file with these pixels; attributes by keyword."""
    data = header(**over)
    dtype = array.dtype
    spatial = array.shape[:-1] if samples > 1 else array.shape
    data.Rows, data.Columns = spatial[-2:]
    if len(spatial) == 3:
        data.NumberOfFrames = spatial[0]
    data.SamplesPerPixel = samples
    data.PhotometricInterpretation = "RGB" if samples > 1 else "MONOCHROME2"
    if samples > 1:
        data.PlanarConfiguration = 0
    data.BitsAllocated, data.PixelRepresentation = 8 * dtype.itemsize, int(dtype.kind == "i")
    data.BitsStored = min(8 * dtype.itemsize, 12) if dtype.itemsize == 2 else 8 * dtype.itemsize
    data.HighBit = data.BitsStored - 1
    for name, value in over.items():
        setattr(data, name, value)
    big = syntax == ExplicitVRBigEndian
    raw = array.astype(dtype.newbyteorder(">" if big else "<")).tobytes()
    data.PixelData = raw + b"\0" * (len(raw) % 2)
    data["PixelData"].VR = "OW" if dtype.itemsize > 1 else "OB"
    return part10(data, syntax)


def header(**over: Any) -> Dataset:
    """The attributes that the archive wants."""
    number = next(_numbers)
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = CT, f"{ROOT}.3.{number}"
    data.StudyInstanceUID, data.SeriesInstanceUID = f"{ROOT}.1.{number}", f"{ROOT}.2.{number}"
    data.PatientID, data.PatientName, data.Modality = f"BN{number}", "Nguyen^An", "CT"
    data.SpecificCharacterSet = "ISO_IR 100"
    for name, value in over.items():
        setattr(data, name, value)
    return data


def part10(data: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The file of a data set."""
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax in _PLUGINS else syntax
    if syntax in _PLUGINS:
        data.compress(syntax, encoding_plugin=_PLUGINS[syntax], generate_instance_uid=False)
    file = BytesIO()
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    data.save_as(file, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return file.getvalue()
