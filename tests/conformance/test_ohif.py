"""The OHIF viewer in a real Chromium reads an archive over DICOMweb: the study list by QIDO-RS, pictures by WADO-RS."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import FileDataset
from pydicom.uid import CTImageStorage, JPEGLSLossless, generate_uid

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from browser import Browser
from http_server import serving
from ohif import beside
from retriever import take_in

from pacs.ingest import Ingest
from pacs.samples import phantom
from storage.retrieval import StoredInstance

BRIGHTNESS = """(() => {
  const canvas = document.querySelector('canvas.cornerstone-canvas');
  if (!canvas || !canvas.width) return null;
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let bright = 0;
  for (let at = 0; at < pixels.length; at += 4) bright += pixels[at] > 40;
  return bright / (pixels.length / 4) > 0.05;
})()"""


@pytest.fixture
def viewer(ingest: Ingest) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    with serving(ingest.database, ingest.store) as address, beside(address) as served:
        yield served


def film(number: int) -> FileDataset:
    """A radiograph with a made-up Vietnamese patient."""
    payload = phantom(number).payload
    assert isinstance(payload, FileDataset)
    return payload


def stored(ingest: Ingest, dataset: FileDataset) -> StoredInstance:
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return take_in(ingest, file.getvalue())


def slices(count: int) -> list[FileDataset]:
    """A CT series of one study."""
    made = []
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for number in range(count):
        one = film(0)
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = CTImageStorage
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
        one.Modality, one.InstanceNumber = "CT", number + 1
        one.ImagePositionPatient, one.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
        one.PixelSpacing, one.SliceThickness = [1, 1], 1
        one.Rows, one.Columns, one.BitsAllocated, one.BitsStored, one.HighBit = 64, 64, 16, 12, 11
        one.PixelData = np.full((64, 64), 1000 + 500 * number, np.uint16).tobytes()
        made.append(one)
    return made


def refused(seen: list[tuple[str, int]]) -> list[tuple[str, int]]:
    return [(path, status) for path, status in seen if status not in {200, 204, 206}]


def test_the_study_list_shows_what_the_archive_holds(
    chromium: Browser, viewer: tuple[str, list[Any]], ingest: Ingest
) -> None:
    names = [str(stored_film.PatientName).replace("^", " ") for stored_film in (film(0), film(1))]
    for number in range(2):
        stored(ingest, film(number))
    address, seen = viewer
    chromium.open(address)
    for name in names:
        chromium.wait_for(f"document.body && document.body.innerText.includes({name.split()[-1]!r})", 60)
    assert any(path.startswith("/dicom-web/studies?") for path, _ in seen)
    assert refused(seen) == []


@pytest.mark.parametrize("compressed", [False, True], ids=["native", "JPEG-LS"])
def test_a_radiograph_is_shown(
    chromium: Browser, viewer: tuple[str, list[Any]], ingest: Ingest, compressed: bool
) -> None:
    picture = film(3)
    if compressed:
        picture.compress(JPEGLSLossless, generate_instance_uid=False)
    kept = stored(ingest, picture)
    address, seen = viewer
    chromium.open(f"{address}/viewer?StudyInstanceUIDs={kept.study_uid}")
    chromium.wait_for(BRIGHTNESS, 90)
    asked = [path for path, _ in seen]
    assert any(path.endswith("/metadata") for path in asked)
    assert any("/frames/1" in path for path in asked)
    assert refused(seen) == []


def test_a_series_is_shown_slice_by_slice(chromium: Browser, viewer: tuple[str, list[Any]], ingest: Ingest) -> None:
    kept = [stored(ingest, one) for one in slices(5)]
    address, seen = viewer
    chromium.open(f"{address}/viewer?StudyInstanceUIDs={kept[0].study_uid}")
    chromium.wait_for("document.body && document.body.innerText.includes('(1/5)')", 90)
    everything = ",".join(f"'{one.sop_uid}'" for one in kept)
    chromium.wait_for(
        f"[{everything}].every((uid) => performance.getEntriesByType('resource').some((one) =>"
        " one.name.includes(uid) && one.name.includes('/frames/')))",
        60,
    )
    assert refused(seen) == []
