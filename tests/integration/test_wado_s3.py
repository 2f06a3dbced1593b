"""WADO-RS over objects in an S3 bucket: no files to send, so they come in parts, or the client is sent there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from archive import Archive
from http_server import client, problem, serving
from rclone_server import ACCESS, SECRET, S3Server
from related import parts_of

from api.config import ApiConfig
from storage.database import Database
from storage.objects.minio import MinioStore

PIXELS = np.random.default_rng(4).integers(0, 4096, (3, 700, 900)).astype(np.uint16)  # 3.8 MB


@pytest.fixture
def archive(database: Database, tmp_path: Path) -> Iterator[Archive]:
    """An archive whose objects are in a bucket."""
    server = S3Server(tmp_path / "s3")
    server.start()
    store = MinioStore(server.endpoint, ACCESS, SECRET, "web", secure=False)
    store.check()
    yield Archive(database, store)
    store.close()
    server.stop()


@pytest.fixture
def http(archive: Archive) -> Iterator[httpx.Client]:
    """A client of a server over it."""
    with serving(archive.database, archive.store) as address, client(address) as opened:
        yield opened


def test_everything_comes_from_the_bucket_too(archive: Archive, http: httpx.Client) -> None:
    stored = archive.add(PIXELS)
    header = stored.header
    path = f"/dicom-web/studies/{header.study_uid}/series/{header.series_uid}/instances/{header.sop_uid}"
    whole = http.get(path, headers={"Accept": "application/dicom; transfer-syntax=*"})
    assert whole.content == archive.store.read(stored.object_key)
    part = http.get(path, headers={"Accept": "application/dicom", "Range": "bytes=1000000-2999999"})
    assert (part.status_code, part.content) == (206, whole.content[1_000_000:3_000_000])
    ((_, data),) = parts_of(http.get(f"/dicom-web/studies/{header.study_uid}"))
    assert data == whole.content
    assert [data for _, data in parts_of(http.get(f"{path}/frames/3,1"))] == [PIXELS[2].tobytes(), PIXELS[0].tobytes()]
    assert http.get(f"{path}/frames/2/rendered").headers["content-type"] == "image/jpeg"
    (model,) = http.get(f"{path}/metadata").json()
    assert http.get(model["7FE00010"]["BulkDataURI"]).content == PIXELS.tobytes()
    archive.store.delete(stored.object_key)
    problem(http.get(path), 503)


def test_who_asks_for_one_stored_object_is_sent_to_the_bucket_where_that_is_allowed(archive: Archive) -> None:
    added = archive.add(PIXELS)
    header, digest = added.header, hashlib.sha256(archive.store.read(added.object_key)).hexdigest()
    path = f"/dicom-web/studies/{header.study_uid}/series/{header.series_uid}/instances/{header.sop_uid}"
    stored = {"Accept": "application/dicom; transfer-syntax=*"}
    config = ApiConfig(redirect_s=30)
    with serving(archive.database, archive.store, config) as address, client(address) as http:
        sent = http.get(path, headers=stored)
        assert (sent.status_code, sent.content, sent.headers["cache-control"]) == (307, b"", "no-store")
        assert "X-Amz-Expires=30" in sent.headers["location"]
        found = httpx.get(sent.headers["location"])
        assert (found.status_code, hashlib.sha256(found.content).hexdigest()) == (200, digest)
        assert httpx.get(sent.headers["location"].replace("X-Amz-Signature=", "X-Amz-Signature=0")).status_code == 403
        tag = {"If-None-Match": sent.headers["etag"]}
        assert http.get(path, headers={**stored, **tag}).status_code == 304
        for accept in ("multipart/related; type=application/dicom; transfer-syntax=*", "application/zip"):
            assert http.get(path, headers={"Accept": accept}).status_code == 200  # what holds more than the object
        assert http.head(path, headers=stored).status_code == 200
        compressed = {"Accept": "application/dicom; transfer-syntax=1.2.840.10008.1.2.4.80"}
        assert http.get(path, headers=compressed).status_code == 200  # not as it is stored
