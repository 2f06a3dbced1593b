"""STOW-RS of metadata as XML with bulk data by address (PS3.18 10.5.1.2, PS3.19 A.1)."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import httpx
import numpy as np
import pydicom
import pytest
from elements import CT, ROOT
from http_server import problem
from pydicom import Dataset
from stow import BOUNDARY, closing, failures, part, post, stored, storing

from api.dicomweb.xml import native
from storage.database import Database
from storage.objects.directory import DirectoryStore

KIND = "application/dicom+xml"
RELATED = f'multipart/related; type="{KIND}"; boundary={BOUNDARY}'
OCTETS = "application/octet-stream"


@pytest.fixture
def http(database: Database, store: DirectoryStore) -> Iterator[httpx.Client]:
    with storing(database, store) as opened:
        yield opened


def data_set(n: int = 1) -> Dataset:
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = CT, f"{ROOT}.3.{n}"
    data.StudyInstanceUID, data.SeriesInstanceUID = f"{ROOT}.1.1", f"{ROOT}.2.1"
    data.SpecificCharacterSet = "ISO_IR 192"
    data.PatientName, data.PatientID, data.Modality = "Nguyễn^An=阮^安", "P1", "CT"
    data.PixelSpacing, data.InstanceNumber, data.ImageType = ["0.5", "0.25"], 7, ["ORIGINAL", "PRIMARY"]
    item = Dataset()
    item.RequestedProcedureID, item.ScheduledProcedureStepID = f"RP{n}", f"SPS{n}"
    data.RequestAttributesSequence = [item]
    data.Rows, data.Columns, data.BitsAllocated, data.BitsStored, data.HighBit = 32, 16, 16, 12, 11
    data.SamplesPerPixel, data.PixelRepresentation, data.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    data.PixelData = np.random.default_rng(n).integers(0, 4096, (32, 16), dtype=np.uint16).tobytes()
    data["PixelData"].VR = "OW"
    return data


def document(data: Dataset, uri: str) -> bytes:
    return native(json.loads(data.to_json(bulk_data_threshold=10**9)) | {"7FE00010": {"vr": "OW", "BulkDataURI": uri}})


def read(database: Database, store: DirectoryStore, n: int) -> Dataset:
    with database.autocommit() as connection:
        row = connection.execute("SELECT object_key FROM instances WHERE sop_uid = %s", (f"{ROOT}.3.{n}",)).fetchone()
    assert row is not None
    return pydicom.dcmread(io.BytesIO(store.read(row[0])))


def test_documents_and_their_bulk_data(http: httpx.Client, database: Database, store: DirectoryStore) -> None:
    sent = [data_set(1), data_set(2)]
    body = (
        part(document(sent[0], "a"), KIND)
        + part(document(sent[1], "b"), f"{KIND}; charset=utf-8")
        + part(sent[1].PixelData, OCTETS, "b")
        + part(sent[0].PixelData, OCTETS, "a")
        + closing()
    )
    answer = post(http, body, kind=RELATED)
    assert answer.status_code == 200, answer.text
    assert stored(answer) == [f"{ROOT}.3.1", f"{ROOT}.3.2"]
    for n, data in enumerate(sent, 1):
        got = read(database, store, n)
        assert [got[element.tag] for element in data] == list(data)
    found = http.get("/dicom-web/series?00400275.00400009=SPS1").json()
    assert found[0]["0020000E"]["Value"] == [f"{ROOT}.2.1"]


def test_what_we_give_can_be_sent_back(http: httpx.Client, database: Database, store: DirectoryStore) -> None:
    first = data_set(1)
    body = part(document(first, "x"), KIND) + part(first.PixelData, OCTETS, "x") + closing()
    assert post(http, body, kind=RELATED).status_code == 200
    accept = {"Accept": f'multipart/related; type="{KIND}"'}
    given = http.get(f"/dicom-web/studies/{ROOT}.1.1/metadata", headers=accept)
    assert given.status_code == 200, given.text
    whole = given.content.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0]
    uri = whole.split(b'<BulkData uri="', 1)[1].split(b'"', 1)[0].decode()
    other = whole.replace(f"{ROOT}.3.1".encode(), f"{ROOT}.3.9".encode())
    uri_of_other = uri.replace(f"{ROOT}.3.1", f"{ROOT}.3.9")
    answer = post(http, part(other, KIND) + part(first.PixelData, OCTETS, uri_of_other) + closing(), kind=RELATED)
    assert answer.status_code == 200, answer.text
    assert read(database, store, 9).PixelData == first.PixelData


def test_one_document_alone(http: httpx.Client, database: Database, store: DirectoryStore) -> None:
    data = data_set(1)
    assert post(http, native(json.loads(data.to_json(bulk_data_threshold=10**9))), kind=KIND).status_code == 200
    assert read(database, store, 1).PixelData == data.PixelData


def test_a_document_that_cannot_be_read_hinders_no_other(http: httpx.Client) -> None:
    data = data_set(1)
    bomb = b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + document(data_set(2), "x")
    body = part(bomb, KIND) + part(document(data, "x"), KIND) + part(data.PixelData, OCTETS, "x") + closing()
    answer = post(http, body, kind=RELATED)
    assert (answer.status_code, stored(answer), failures(answer)) == (202, [f"{ROOT}.3.1"], [("", 0xC000)])
    assert "document type" in answer.headers["warning"]


def test_nothing_that_can_be_read(http: httpx.Client, store: DirectoryStore) -> None:
    assert post(http, part(b"<x/>", KIND) + closing(), kind=RELATED).status_code == 400
    missing = post(http, part(document(data_set(1), "file:///etc/passwd"), KIND) + closing(), kind=RELATED)
    assert (missing.status_code, failures(missing)) == (400, [(f"{ROOT}.3.1", 0xC000)])
    assert list(store.keys()) == []


def test_more_metadata_than_is_taken(http: httpx.Client) -> None:
    padding = b"<!--" + bytes([0x20]) * (3 << 20) + b"-->"
    documents = [document(data_set(n), "x").replace(b"</Native", padding + b"</Native") for n in range(3)]
    problem(post(http, b"".join(part(one, KIND) for one in documents) + closing(), kind=RELATED), 413)
