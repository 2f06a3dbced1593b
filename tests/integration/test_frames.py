"""WADO-RS frames and bulk data over HTTP: as stored, decoded, by address (PS3.18 10.4.1.1.4, 10.4.1.1.5)."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from archive import Archive, part10
from http_server import problem
from pydicom.encaps import generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, JPEGLSLossless, RLELossless
from related import parts_of

WEB = "/dicom-web"
EXPLICIT = "1.2.840.10008.1.2.1"
FRAMES = np.random.default_rng(5).integers(0, 4096, (5, 30, 20)).astype(np.uint16)
ANY = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'


def path_of(header: Any, suffix: str) -> str:
    return f"{WEB}/studies/{header.study_uid}/series/{header.series_uid}/instances/{header.sop_uid}/{suffix}"


def add(archive: Archive, syntax: str, pixels: np.ndarray = FRAMES, **over: Any) -> Any:
    """An instance in a transfer syntax; the pixels are compressed where it says so."""
    file = part10(pixels, **over)
    data = pydicom.dcmread(file)
    if syntax in (RLELossless, JPEGLSLossless):
        data.compress(syntax, generate_instance_uid=False)
    packed = BytesIO()
    data.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        data.PixelData = pixels.byteswap().tobytes()
        data["PixelData"].VR = "OW"
        pydicom.dcmwrite(packed, data, little_endian=False, implicit_vr=False)
    else:
        data.save_as(packed)
    return archive.add(pixels, content=packed.getvalue(), transfer_syntax=syntax).header


def test_native_frames_as_they_are_stored(archive: Archive, http: httpx.Client) -> None:
    header = add(archive, EXPLICIT)
    for accept in ("*/*", ANY, "multipart/related; type=application/octet-stream"):
        found = parts_of(http.get(path_of(header, "frames/2,5"), headers={"Accept": accept}))
        assert found == [
            (f"application/octet-stream; transfer-syntax={EXPLICIT}", FRAMES[number].tobytes()) for number in (1, 4)
        ]
    alone = http.get(
        path_of(header, "frames/3"), headers={"Accept": "application/octet-stream", "Range": "bytes=10-19"}
    )
    assert (alone.status_code, alone.content) == (206, FRAMES[2].tobytes()[10:20])
    assert len(parts_of(http.get(path_of(header, "pixeldata")))) == 5
    problem(http.get(path_of(header, "frames/1,2"), headers={"Accept": "application/octet-stream"}), 406)
    problem(http.get(path_of(header, "frames/6")), 404)
    problem(http.get(path_of(header, "frames/0")), 400)


@pytest.mark.parametrize(
    ("syntax", "kind"), [(RLELossless, "image/dicom-rle"), (JPEGLSLossless, "image/jls")], ids=["rle", "jpeg-ls"]
)
def test_compressed_frames_as_stored_or_decoded(archive: Archive, http: httpx.Client, syntax: str, kind: str) -> None:
    header = add(archive, syntax)
    stored = pydicom.dcmread(BytesIO(archive.store.read(next(iter(archive.store.keys())))))
    frames = list(generate_frames(stored.PixelData, number_of_frames=5))
    for accept, told in (
        (ANY, "application/octet-stream"),
        (f'multipart/related; type="{kind}"', kind),
        (f'multipart/related; type="{kind}"; transfer-syntax={syntax}', kind),
    ):
        found = parts_of(http.get(path_of(header, "frames/1,4"), headers={"Accept": accept}))
        assert found == [(f"{told}; transfer-syntax={syntax}", frames[number]) for number in (0, 3)]
    decoded = parts_of(http.get(path_of(header, "frames/1,4")))
    assert decoded == [
        (f"application/octet-stream; transfer-syntax={EXPLICIT}", FRAMES[number].tobytes()) for number in (0, 3)
    ]
    single = http.get(path_of(header, "frames/2"), headers={"Accept": kind})
    assert (single.headers["content-type"], single.content) == (f"{kind}; transfer-syntax={syntax}", frames[1])
    bulk = parts_of(
        http.get(path_of(header, "bulkdata/7FE00010"), headers={"Accept": f"multipart/related; type={kind}"})
    )
    assert [data for _, data in bulk] == frames
    for refused in ("image/jp2", f"multipart/related; type={kind}; transfer-syntax=1.2.840.10008.1.2.4.90"):
        problem(http.get(path_of(header, "frames/1"), headers={"Accept": refused}), 406)


def test_big_endian_frames_come_little_endian(archive: Archive, http: httpx.Client) -> None:
    header = add(archive, ExplicitVRBigEndian)
    ((_, data),) = parts_of(http.get(path_of(header, "frames/2")))
    assert data == FRAMES[1].tobytes()
    bulk = http.get(path_of(header, "bulkdata/7FE00010"))
    assert bulk.content == FRAMES.tobytes()


def test_of_a_deflated_object_everything_can_be_had(archive: Archive, http: httpx.Client) -> None:
    header = add(archive, DeflatedExplicitVRLittleEndian, ICCProfile=b"profile!" * 300)
    assert [data for _, data in parts_of(http.get(path_of(header, "frames/5,1")))] == [
        FRAMES[4].tobytes(),
        FRAMES[0].tobytes(),
    ]
    (model,) = http.get(path_of(header, "metadata")).json()
    for tag, value in (("7FE00010", FRAMES.tobytes()), ("00282000", b"profile!" * 300)):
        assert http.get(model[tag]["BulkDataURI"]).content == value
    assert http.get(path_of(header, "frames/2/rendered")).status_code == 200


def test_every_address_in_the_metadata_resolves(archive: Archive, http: httpx.Client) -> None:
    inside = pydicom.Dataset()
    inside.LUTData = b"\1\2" * 2000
    inside["LUTData"].VR = "OW"
    item = pydicom.Dataset()
    item.ModalityLUTSequence = Sequence([pydicom.Dataset(), inside])
    over = {"VOILUTSequence": Sequence([pydicom.Dataset(), item]), "ICCProfile": b"profile!" * 300}
    header = archive.add(FRAMES, part10_over=over).header
    (model,) = http.get(path_of(header, "metadata")).json()
    nested = model["00283010"]["Value"][1]["00283000"]["Value"][1]["00283006"]
    for attribute, value in (
        (nested, b"\1\2" * 2000),
        (model["00282000"], b"profile!" * 300),
        (model["7FE00010"], FRAMES.tobytes()),
    ):
        answer = http.get(attribute["BulkDataURI"])
        assert (answer.headers["content-type"], answer.content) == ("application/octet-stream", value)
        part = http.get(attribute["BulkDataURI"], headers={"Range": "bytes=6-11"})
        assert (part.status_code, part.content) == (206, value[6:12])
        related = http.get(
            attribute["BulkDataURI"], headers={"Accept": "multipart/related; type=application/octet-stream"}
        )
        assert [data for _, data in parts_of(related)] == [value]


@pytest.mark.parametrize(
    "place", ["00100010", "00283010", "00283010/7/00283006", "00080005/0/00080005", "00280010/0/00280011"]
)
def test_a_place_without_a_value(archive: Archive, http: httpx.Client, place: str) -> None:
    problem(http.get(path_of(archive.add().header, f"bulkdata/{place}")), 404)


@pytest.mark.parametrize("place", ["x", "7FE0001", "7FE00010/", "7FE00010/0", "%2e%2e", "7FE00010/-1/00080005", "%00"])
def test_what_is_no_place(archive: Archive, http: httpx.Client, place: str) -> None:
    path = path_of(archive.add().header, "bulkdata/") + place
    assert http.get(path).status_code in (400, 404)


def test_pixels_that_are_cut_off(archive: Archive, http: httpx.Client) -> None:
    native = archive.add(FRAMES, part10_over={"PixelData": FRAMES.tobytes()[:-4]}).header
    assert len(parts_of(http.get(path_of(native, "frames/4")))) == 1
    problem(http.get(path_of(native, "frames/5")), 422)
    problem(http.get(path_of(archive.add(part10_over={"NumberOfFrames": 0}).header, "frames/9")), 404)


@pytest.mark.parametrize("bits", [30 * 20, 7 * 5])
def test_frames_of_single_bits(archive: Archive, http: httpx.Client, bits: int) -> None:
    rows, columns = (30, 20) if bits == 600 else (7, 5)
    masks = np.random.default_rng(1).integers(0, 2, (3, rows, columns)).astype(np.uint8)
    packed = np.packbits(masks.ravel(), bitorder="little").tobytes()
    over = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "PixelData": packed + b"\0" * (len(packed) % 2)}
    header = archive.add(masks, part10_over=over).header
    for number, mask in enumerate(masks, start=1):
        ((_, data),) = parts_of(http.get(path_of(header, f"frames/{number}")))
        assert (np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[:bits] == mask.ravel()).all()
        assert http.get(path_of(header, f"frames/{number}/rendered")).status_code == 200
