"""dicomweb-client, as radiology's Python programs use it, retrieves from the running server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicomweb_client import DICOMwebClient
from pydicom.uid import ExplicitVRLittleEndian

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from archive import Archive
from http_server import serving

from api.config import ApiConfig
from storage.database import Database

SECRET = "a-secret-of-enough-characters"
PIXELS = np.random.default_rng(6).integers(0, 4096, (4, 50, 40)).astype(np.uint16)


@pytest.fixture
def archive(database: Database, store: Any) -> Archive:
    """An empty archive."""
    return Archive(database, store)


@pytest.fixture
def web(archive: Archive) -> Iterator[DICOMwebClient]:
    """The client with a token, of a server that wants one."""
    with serving(archive.database, archive.store, ApiConfig(tokens={"tests": SECRET})) as address:
        yield DICOMwebClient(f"{address}/dicom-web", headers={"Authorization": f"Bearer {SECRET}"})


def test_objects(archive: Archive, web: DICOMwebClient) -> None:
    one = archive.add(PIXELS).header
    two = archive.add(PIXELS[:2], study_uid=one.study_uid).header
    study = web.retrieve_study(one.study_uid)
    assert {data.SOPInstanceUID for data in study} == {one.sop_uid, two.sop_uid}
    assert len(list(web.iter_series(one.study_uid, two.series_uid))) == 1
    instance = web.retrieve_instance(one.study_uid, one.series_uid, one.sop_uid)
    assert isinstance(instance, pydicom.Dataset)
    assert instance.PixelData == PIXELS.tobytes()
    kinds = (("application/dicom", ExplicitVRLittleEndian),)
    assert len(web.retrieve_series(one.study_uid, one.series_uid, media_types=kinds)) == 1


def test_metadata_and_bulk_data(archive: Archive, web: DICOMwebClient) -> None:
    one = archive.add(PIXELS).header
    for models in (
        web.retrieve_study_metadata(one.study_uid),
        web.retrieve_series_metadata(one.study_uid, one.series_uid),
        [web.retrieve_instance_metadata(one.study_uid, one.series_uid, one.sop_uid)],
    ):
        (model,) = models
        assert pydicom.Dataset.from_json(model, bulk_data_uri_handler=lambda _: b"").SOPInstanceUID == one.sop_uid
        assert web.retrieve_bulkdata(model["7FE00010"]["BulkDataURI"]) == [PIXELS.tobytes()]


def test_frames_and_pictures(archive: Archive, web: DICOMwebClient) -> None:
    one = archive.add(PIXELS).header
    where = one.study_uid, one.series_uid, one.sop_uid
    assert web.retrieve_instance_frames(*where, frame_numbers=[4, 1]) == [PIXELS[3].tobytes(), PIXELS[0].tobytes()]
    assert web.retrieve_instance_rendered(*where, media_types=("image/png",)).startswith(b"\x89PNG")
    picture = web.retrieve_instance_frames_rendered(*where, frame_numbers=[2], media_types=("image/jpeg",))
    assert picture.startswith(b"\xff\xd8")
