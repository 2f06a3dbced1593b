"""STOW-RS of metadata as DICOM JSON with bulk data: the data set that is built is the one that was described."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from elements import CT, ROOT
from http_server import problem
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, RLELossless
from stow import JSON_RELATED, closing, failures, part, post, stored, storing

from storage.database import Database
from storage.objects.directory import DirectoryStore

KIND = "application/dicom+json"


@pytest.fixture
def http(database: Database, store: DirectoryStore) -> Iterator[httpx.Client]:
    with storing(database, store) as opened:
        yield opened


def data_set(n: int = 1, frames: int = 1) -> Dataset:
    """A small image with one attribute of nearly every VR."""
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = CT, f"{ROOT}.3.{n}"
    data.StudyInstanceUID, data.SeriesInstanceUID = f"{ROOT}.1.1", f"{ROOT}.2.1"
    data.SpecificCharacterSet = "ISO_IR 192"
    data.PatientName, data.PatientID, data.PatientBirthDate = "Nguyễn^An=阮^安", "P1", "19700131"
    data.PatientAge, data.StudyTime, data.Modality = "052Y", "101500.25", "CT"
    data.PixelSpacing, data.SliceThickness = [0.123456789012, 1e-5], 1.0 / 3.0
    data.InstanceNumber, data.ImageType = 7, ["ORIGINAL", "PRIMARY"]
    data.FrameIncrementPointer = 0x00181063
    data.ReferencedImageSequence = [Dataset()]
    data.ReferencedImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"
    data.add_new(0x00186011, "SQ", [])
    data.add_new(0x00091010, "OB", b"\1\2\3\4")
    data.Rows, data.Columns, data.BitsAllocated, data.BitsStored, data.HighBit = 32, 16, 16, 12, 11
    data.SamplesPerPixel, data.PixelRepresentation, data.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    if frames > 1:
        data.NumberOfFrames = frames
    rng = np.random.default_rng(n)
    data.PixelData = rng.integers(0, 4096, (frames, 32, 16), dtype=np.uint16).tobytes()
    data["PixelData"].VR = "OW"
    return data


def metadata(data: Dataset, uri: str = "bulk/1") -> dict[str, Any]:
    """Its JSON with pixel data by address."""
    model = json.loads(data.to_json(bulk_data_threshold=10**9))
    model["7FE00010"] = {"vr": "OW", "BulkDataURI": uri}
    return model


def request(models: Any, *bulk: tuple[bytes, str, str]) -> bytes:
    """A body: the metadata, then bulk data with media type and location."""
    parts = b"".join(part(content, kind, location) for content, kind, location in bulk)
    return part(json.dumps(models).encode(), KIND) + parts + closing()


def read(database: Database, store: DirectoryStore, n: int = 1) -> Dataset:
    """What is stored."""
    with database.autocommit() as connection:
        row = connection.execute("SELECT object_key FROM instances WHERE sop_uid = %s", (f"{ROOT}.3.{n}",)).fetchone()
    assert row is not None
    return pydicom.dcmread(io.BytesIO(store.read(row[0])))


def test_uncompressed(http: httpx.Client, database: Database, store: DirectoryStore) -> None:
    sent = [data_set(1), data_set(2)]
    models = [metadata(sent[0], "a"), metadata(sent[1], "../b?c")]
    octets = "application/octet-stream"
    answer = post(
        http,
        request(models, (sent[1].PixelData, octets, "../b?c"), (sent[0].PixelData, octets, "a")),
        kind=JSON_RELATED,
    )
    assert answer.status_code == 200, answer.text
    assert stored(answer) == [f"{ROOT}.3.1", f"{ROOT}.3.2"]
    for n, data in enumerate(sent, 1):
        got = read(database, store, n)
        assert got.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        for element in data:
            if element.VR == "DS":
                assert np.allclose(element.value, got[element.tag].value, rtol=1e-9), element.tag
            else:
                assert got[element.tag] == element, element.tag
        assert got.PatientName.ideographic == "阮^安"


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
@pytest.mark.parametrize("named", [True, False])
def test_compressed(
    http: httpx.Client, database: Database, store: DirectoryStore, syntax: pydicom.uid.UID, named: bool
) -> None:
    data = data_set(1, frames=3)
    pixels = np.frombuffer(data.PixelData, np.uint16).reshape(3, 32, 16)
    packed = data_set(1, frames=3)
    packed.file_meta = FileMetaDataset()
    packed.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    packed.compress(syntax, generate_instance_uid=False)
    frames = pydicom.encaps.generate_frames(packed.PixelData, number_of_frames=3)
    kind = {RLELossless: "image/dicom-rle", JPEGLSLossless: "image/jls"}[syntax]
    kind += f'; transfer-syntax="{syntax}"' if named else ""
    answer = post(http, request([metadata(data)], *((one, kind, "bulk/1") for one in frames)), kind=JSON_RELATED)
    assert answer.status_code == 200, answer.text
    got = read(database, store)
    assert got.file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(got.pixel_array, pixels)


def test_jpeg_is_looked_at(http: httpx.Client, database: Database, store: DirectoryStore) -> None:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.zeros((32, 16), np.uint8)).save(file, "JPEG")
    data = data_set(1)
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit = 7
    answer = post(http, request([metadata(data)], (file.getvalue(), "image/jpeg", "bulk/1")), kind=JSON_RELATED)
    assert answer.status_code == 200, answer.text
    got = read(database, store)
    assert got.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.50"
    assert got.pixel_array.shape == (32, 16)
    answer = post(http, request([metadata(data_set(2))], (b"no JPEG", "image/jpeg", "bulk/1")), kind=JSON_RELATED)
    assert failures(answer) == [(f"{ROOT}.3.2", 0xC122)]


def test_inline_and_single_part(http: httpx.Client, database: Database, store: DirectoryStore) -> None:
    data = data_set(1)
    model = metadata(data)
    model["7FE00010"] = {"vr": "OW", "InlineBinary": base64.b64encode(data.PixelData).decode()}
    answer = post(http, json.dumps(model).encode(), kind=KIND)
    assert answer.status_code == 200, answer.text
    assert read(database, store).PixelData == data.PixelData


WRONG: dict[str, tuple[Any, str]] = {
    "vr of another": ({"00100010": {"vr": "DA", "Value": ["20200101"]}}, "00100010"),
    "no such vr": ({"00100010": {"vr": "XX"}}, "00100010"),
    "name as text": ({"00100010": {"vr": "PN", "Value": ["An"]}}, "00100010[0]"),
    "a date that is none": ({"00080020": {"vr": "DA", "Value": ["today"]}}, "00080020[0]"),
    "number in text": ({"00280010": {"vr": "US", "Value": ["many"]}}, "00280010[0]"),
    "number too large": ({"00280010": {"vr": "US", "Value": [65536]}}, "00280010[0]"),
    "truth for a number": ({"00280010": {"vr": "US", "Value": [True]}}, "00280010[0]"),
    "no array": ({"00280010": {"vr": "US", "Value": 5}}, "00280010"),
    "two values": ({"00091010": {"vr": "OB", "Value": [], "InlineBinary": ""}}, "00091010"),
    "no base64": ({"00091010": {"vr": "OB", "InlineBinary": "§"}}, "00091010"),
    "unknown member": ({"00280010": {"vr": "US", "value": [1]}}, "00280010"),
    "tag": ({"0028001": {"vr": "US"}}, "0028001"),
    "command": ({"00000010": {"vr": "US"}}, "00000010"),
    "no object in a sequence": ({"00081140": {"vr": "SQ", "Value": ["x"]}}, "00081140[0]"),
    "deep in a sequence": (
        {"00081140": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.x"]}}]}},
        "00081140[0].00081155[0]",
    ),
    "bulk that did not come": ({"00091010": {"vr": "OB", "BulkDataURI": "file:///etc/passwd"}}, "00091010"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_metadata_is_told_where(http: httpx.Client, database: Database, name: str) -> None:
    over, place = WRONG[name]
    good, bad = data_set(1), metadata(data_set(2)) | over
    bulk = (good.PixelData, "application/octet-stream", "bulk/1")
    answer = post(http, request([bad], bulk), kind=JSON_RELATED)
    assert (answer.status_code, failures(answer)) == (400, [(f"{ROOT}.3.2", 0xC000)])
    assert f'"{place}: ' in answer.headers["warning"]
    both = post(http, request([metadata(good), bad], bulk), kind=JSON_RELATED)
    assert (both.status_code, stored(both), failures(both)) == (202, [f"{ROOT}.3.1"], [(f"{ROOT}.3.2", 0xC000)])


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[1]", b"[" * 100_000, b'{"7FE00010": 5}', b"\xff"])
def test_other_json(http: httpx.Client, content: bytes) -> None:
    answer = post(http, part(content, KIND) + closing(), kind=JSON_RELATED)
    assert answer.status_code == 400, answer.text


def test_limits(database: Database, store: DirectoryStore) -> None:
    with storing(database, store, max_object_bytes=100_000) as http:
        octets = "application/octet-stream"
        problem(post(http, request([metadata(data_set(1))], (bytes(200_000), octets, "x")), kind=JSON_RELATED), 413)
        missing = metadata(data_set(1))
        del missing["00080018"]
        answer = post(http, request([missing], (bytes(1024), octets, "bulk/1")), kind=JSON_RELATED)
        assert failures(answer) == [("", 0xC000)]
        unknown = request([metadata(data_set(1))], (b"x", "image/png", "bulk/1"), (b"x", octets, ""))
        assert failures(post(http, unknown, kind=JSON_RELATED)) == [(f"{ROOT}.3.1", 0xC000)]
    assert list(store.keys()) == []


def test_large_metadata_is_refused(http: httpx.Client) -> None:
    model = metadata(data_set(1)) | {"00091010": {"vr": "OB", "InlineBinary": "A" * (9 << 20)}}
    problem(post(http, request([model]), kind=JSON_RELATED), 413)


def test_the_answer_as_xml(http: httpx.Client) -> None:
    body = request([metadata(data_set(1))], (data_set(1).PixelData, "application/octet-stream", "bulk/1"))
    answer = post(http, body, kind=JSON_RELATED, Accept="application/dicom+xml")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom+xml")
    assert 'keyword="ReferencedSOPSequence"' in answer.text
    assert f'<Value number="1">{ROOT}.3.1</Value>' in answer.text
