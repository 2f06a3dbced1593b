"""Synthetic DICOM files for the benches, made once a profile and kept in `bench/run/data`.

ct        CT, 512 x 512, 16 bits, 0.5 MB, 100 images a study
cxr-jls   DX, 3000 x 2500, 12 bits, JPEG-LS lossless, about 4 MB, PA and lateral
cxr-raw   the same pixels without compression, 15 MB
nagle-ct, nagle-jls   fewer files of the same kind: stock clients are slow with the peers
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, generate_uid

CT, DX = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.1.1"
FAMILIES, GIVEN = ("Nguyễn", "Trần", "Lê", "Phạm", "Đặng"), ("Văn An", "Thị Bình", "Minh Đức", "Ngọc Ánh")


@dataclass(frozen=True)
class Profile:
    """One kind of studies."""

    name: str
    studies: int
    images: int  # a study
    kind: str  # ct | jls | raw

    @property
    def option(self) -> str:
        """The option by which storescu proposes the transfer syntax."""
        return "-xt" if self.kind == "jls" else "-xe"


PROFILES = {
    p.name: p
    for p in (
        Profile("ct", 16, 50, "ct"),
        Profile("cxr-jls", 72, 2, "jls"),
        Profile("cxr-raw", 24, 2, "raw"),
    )
}


def prepare(profile: Profile, root: Path) -> list[Path]:
    """The profile's files, one folder a study; made where they are missing."""
    folder, done = root / profile.name, root / f"{profile.name}.json"
    if not done.exists() or json.loads(done.read_text()) != vars(profile):
        shutil.rmtree(folder, ignore_errors=True)
        jobs = [(profile, study, folder / f"{study:04d}") for study in range(profile.studies)]
        with Pool(2) as pool:
            pool.starmap(_make_study, jobs, 1)
        done.write_text(json.dumps(vars(profile)))
    return sorted(folder.rglob("*.dcm"))


def _make_study(profile: Profile, number: int, folder: Path) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng([number, len(profile.name)])
    noise = rng.standard_normal((3200, 2700), dtype=np.float32)
    common = _study(profile, number)
    for image in range(profile.images):
        ds = Dataset()
        ds.update(common)
        ds.SOPInstanceUID, ds.InstanceNumber = generate_uid(None), image + 1
        if profile.kind == "ct":
            pixels = _ct(rng, noise, image)
        else:
            ds.SeriesInstanceUID, ds.ViewPosition = generate_uid(None), "PA" if image == 0 else "LL"
            pixels = _chest(rng, noise)
        ds.Rows, ds.Columns = pixels.shape
        ds.PixelData = pixels.tobytes()
        ds["PixelData"].VR = "OW"
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if profile.kind == "jls":
            ds.compress(JPEGLSLossless, encoding_plugin="pyjpegls", generate_instance_uid=False)
        ds.save_as(folder / f"{image:04d}.dcm", enforce_file_format=True)


def _study(profile: Profile, number: int) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.Modality = (CT, "CT") if profile.kind == "ct" else (DX, "DX")
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = f"2026{number % 12 + 1:02d}{number % 28 + 1:02d}"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = "101500"
    ds.AccessionNumber, ds.StudyID = f"A{number:06d}", str(number)
    ds.PatientName = f"{FAMILIES[number % 5]}^{GIVEN[number % 4]}"
    ds.PatientID, ds.PatientBirthDate, ds.PatientSex = f"{profile.name}-{number:05d}", "19700101", "F"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(None), generate_uid(None)
    ds.BodyPartExamined, ds.SeriesNumber, ds.SamplesPerPixel = "CHEST", 1, 1
    ds.PhotometricInterpretation, ds.BitsAllocated, ds.PixelRepresentation = "MONOCHROME2", 16, 0
    ds.BitsStored = 16 if profile.kind == "ct" else 12
    ds.HighBit = ds.BitsStored - 1
    ds.WindowCenter, ds.WindowWidth, ds.RescaleIntercept, ds.RescaleSlope = "2048", "3000", "0", "1"
    return ds


def _ct(rng: np.random.Generator, noise: np.ndarray, slice_number: int) -> np.ndarray:
    y, x = np.mgrid[-1:1:512j, -1:1:512j].astype(np.float32)
    body = ((x / 0.85) ** 2 + (y / 0.65) ** 2 < 1) * 1000.0
    lungs = (((np.abs(x) - 0.4) / 0.28) ** 2 + (y / (0.3 + 0.001 * slice_number)) ** 2 < 1) * -800.0
    top, left = rng.integers(0, 2600), rng.integers(0, 2100)
    return np.clip(body + lungs + 24 * noise[top : top + 512, left : left + 512] + 100, 0, 4095).astype(np.uint16)


def _chest(rng: np.random.Generator, noise: np.ndarray) -> np.ndarray:
    """Two dark lungs in a bright body with a grain that compresses as a radiograph's does (about 4 MB of 15)."""
    y, x = np.ogrid[-1:1:3000j, -1:1:2500j]
    y, x = y.astype(np.float32), x.astype(np.float32)
    shift = rng.uniform(-0.05, 0.05)
    grey = 2600 * np.exp(-((x / 0.95) ** 6)) * np.exp(-((y / 1.1) ** 8)) + 300
    for side in (-0.42, 0.42):
        grey -= 1500 * np.exp(-(((x - side - shift) / 0.3) ** 4)) * np.exp(-(((y + 0.1) / 0.6) ** 4))
    top, left = rng.integers(0, 200), rng.integers(0, 200)
    return np.clip(grey + 5 * noise[top : top + 3000, left : left + 2500], 0, 4095).astype(np.uint16)
