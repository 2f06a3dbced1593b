"""WADO-RS objects and metadata over HTTP: forms, negotiation, ranges, conditions, what is not there (PS3.18 10.4)."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import httpx
import numpy as np
import pydicom
import pytest
from archive import Archive, part10
from http_server import problem
from pydicom.uid import JPEGLSLossless
from related import parts_of

from storage.studies import Received

ANY = 'multipart/related; type="application/dicom"; transfer-syntax=*'
EXPLICIT = "1.2.840.10008.1.2.1"
WEB = "/dicom-web"


def path_of(received: Received, level: str = "instance") -> str:
    header = received.header
    path = f"{WEB}/studies/{header.study_uid}"
    if level != "study":
        path += f"/series/{header.series_uid}"
    return path + (f"/instances/{header.sop_uid}" if level == "instance" else "")


@pytest.fixture
def series(archive: Archive) -> Callable[..., list[Received]]:
    """Adds a series of images to one study."""

    def add(count: int, **over: Any) -> list[Received]:
        dice = np.random.default_rng(count)
        first = archive.add(dice.integers(0, 4096, (40, 30)).astype(np.uint16), instance_number=1, **over)
        same = {"study_uid": first.header.study_uid, "series_uid": first.header.series_uid, **over}
        rest = [
            archive.add(dice.integers(0, 4096, (40, 30)).astype(np.uint16), instance_number=n, **same)
            for n in range(2, count + 1)
        ]
        return [first, *rest]

    return add


def test_every_object_of_a_study_byte_for_byte(archive: Archive, http: httpx.Client, series: Any) -> None:
    stored = series(3)
    for level in ("study", "series"):
        answer = http.get(path_of(stored[0], level), headers={"Accept": ANY})
        assert answer.status_code == 200
        assert int(answer.headers["content-length"]) == len(answer.content)
        found = parts_of(answer)
        assert [kind for kind, _ in found] == [f"application/dicom; transfer-syntax={EXPLICIT}"] * 3
        assert [data for _, data in found] == [archive.store.read(one.object_key) for one in stored]


def test_one_object_as_a_single_part(archive: Archive, http: httpx.Client, series: Any) -> None:
    (stored,) = series(1)
    answer = http.get(path_of(stored), headers={"Accept": "application/dicom; transfer-syntax=*"})
    assert answer.headers["content-type"] == f"application/dicom; transfer-syntax={EXPLICIT}"
    assert answer.content == archive.store.read(stored.object_key)
    assert http.get(path_of(stored) + "?accept=application/dicom").content == answer.content
    (part,) = parts_of(http.get(path_of(stored)))
    assert part[1] == answer.content
    problem(http.get(path_of(stored, "series"), headers={"Accept": "application/dicom"}), 406)


def test_zip(archive: Archive, http: httpx.Client, series: Any) -> None:
    stored = series(2)
    answer = http.get(path_of(stored[0], "study"), headers={"Accept": "application/zip"})
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archived:
        assert archived.testzip() is None
        assert {name.rsplit("/", 1)[1]: archived.read(name) for name in archived.namelist()} == {
            f"{one.header.sop_uid}.dcm": archive.store.read(one.object_key) for one in stored
        }


def test_a_broken_download_goes_on(archive: Archive, http: httpx.Client, series: Any) -> None:
    stored = series(2)
    for path, accept in ((path_of(stored[0]), "application/dicom"), (path_of(stored[0], "study"), ANY)):
        whole = http.get(path, headers={"Accept": accept})
        assert whole.headers["accept-ranges"] == "bytes"
        size = len(whole.content)
        for wanted, (start, end) in {
            "bytes=0-0": (0, 1),
            "bytes=100-": (100, size),
            "bytes=300-1234": (300, 1235),
            "bytes=-17": (size - 17, size),
            f"bytes=5-{size + 99}": (5, size),
        }.items():
            part = http.get(path, headers={"Accept": accept, "Range": wanted, "If-Range": whole.headers["etag"]})
            assert (part.status_code, part.content) == (206, whole.content[start:end]), wanted
            assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
        beyond = http.get(path, headers={"Accept": accept, "Range": f"bytes={size}-"})
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
        for odd in ("bytes=5-2", "bytes=a-b", "lines=1-2", "bytes=0-1,4-5", "bytes=-", "bytes=²-"):
            answer = http.get(
                path, headers={"Accept": accept, "Range": odd.encode().decode("latin-1").encode("latin-1")}
            )
            assert (answer.status_code, answer.content) == (200, whole.content), odd
        changed = http.get(path, headers={"Accept": accept, "Range": "bytes=0-9", "If-Range": '"other"'})
        assert (changed.status_code, len(changed.content)) == (200, size)


def test_what_the_client_has_is_not_sent_again(http: httpx.Client, series: Any) -> None:
    stored = series(2)
    for path in (path_of(stored[0]), path_of(stored[0], "study"), path_of(stored[0], "study") + "/metadata"):
        first = http.get(path)
        again = http.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    series(1, study_uid=stored[0].header.study_uid)
    assert http.get(path, headers={"If-None-Match": first.headers["etag"]}).status_code == 200


def test_head_tells_what_get_would(http: httpx.Client, series: Any) -> None:
    (stored,) = series(1)
    for path in (path_of(stored), path_of(stored) + "/metadata"):
        got, told = http.get(path), http.head(path)
        assert (told.status_code, told.content) == (200, b"")
        for name in ("content-type", "etag", "content-length"):
            assert told.headers.get(name) == got.headers.get(name)


@pytest.mark.parametrize("accept", ["image/jpeg", "text/html", "application/dicom+json", "*/*;q=0", "nonsense"])
def test_what_is_not_acceptable_says_what_is(http: httpx.Client, series: Any, accept: str) -> None:
    (stored,) = series(1)
    detail = problem(http.get(path_of(stored), headers={"Accept": accept}), 406)["detail"]
    assert 'multipart/related; type="application/dicom"' in str(detail)


def test_what_is_not_there(archive: Archive, http: httpx.Client, series: Any) -> None:
    (stored,) = series(1)
    (other,) = series(1)
    own, foreign = stored.header, other.header
    for path in (
        "studies/1.2.3",
        f"studies/{own.study_uid}/series/1.2.3",
        f"studies/{own.study_uid}/series/{own.series_uid}/instances/{foreign.sop_uid}",
        f"studies/{own.study_uid}/series/{foreign.series_uid}",
    ):
        problem(http.get(f"{WEB}/{path}"), 404)
        problem(http.get(f"{WEB}/{path}/metadata"), 404)
    for uid in ("..%2f..%2fetc", "1..2", "1" * 65, "x", "1.2%00"):
        assert problem(http.get(f"{WEB}/studies/{uid}"), 400 if "%2f" not in uid else 404)
    archive.store.delete(stored.object_key)
    body = problem(http.get(path_of(stored), headers={"Accept": ANY}), 503)
    assert stored.object_key not in str(body)


def test_what_was_rejected_is_gone(archive: Archive, http: httpx.Client, series: Any) -> None:
    first, second = series(2)
    with archive.database.autocommit() as connection:
        connection.execute("UPDATE instances SET hidden = true WHERE sop_uid = %s", (first.header.sop_uid,))
    for suffix in ("", "/metadata"):
        problem(http.get(path_of(first) + suffix), 410)
    assert len(parts_of(http.get(path_of(first, "study")))) == 1
    (left,) = http.get(path_of(first, "series") + "/metadata").json()
    assert left["00080018"]["Value"] == [second.header.sop_uid]


def test_metadata_is_what_the_files_say(archive: Archive, http: httpx.Client, series: Any) -> None:
    stored = series(2)
    answer = http.get(path_of(stored[0], "study") + "/metadata")
    assert answer.headers["content-type"] == "application/dicom+json"
    for one, model in zip(stored, answer.json(), strict=True):
        found = pydicom.Dataset.from_json({tag: a for tag, a in model.items() if "BulkDataURI" not in a})
        data = pydicom.dcmread(io.BytesIO(archive.store.read(one.object_key)), stop_before_pixels=True)
        del found[0x00083002]
        for tag in (0x0020000D, 0x0020000E):
            del found[tag]  # the index knows them, these files do not
        assert found == data
        assert model["00083002"]["Value"] == [EXPLICIT]
        address = model["7FE00010"]["BulkDataURI"]
        assert address.startswith(f"{http.base_url}".rstrip("/") + path_of(one))
    (alone,) = http.get(path_of(stored[0]) + "/metadata").json()
    assert alone == answer.json()[0]


@pytest.mark.parametrize("count", [3, 9])
def test_metadata_follows_every_change(archive: Archive, http: httpx.Client, series: Any, count: int) -> None:
    stored = series(count)
    path = path_of(stored[0], "study") + "/metadata"

    def uids() -> list[str]:
        return [one["00080018"]["Value"][0] for one in http.get(path).json()]

    def execute(statement: Any) -> None:
        with archive.database.autocommit() as connection:
            connection.execute(statement, (stored[0].header.study_uid,))

    expected = [one.header.sop_uid for one in stored]
    assert uids() == uids() == expected
    kept = set(archive.store.keys()) - {one.object_key for one in stored}
    assert len(kept) == (count >= 8)
    (new,) = series(1, study_uid=stored[0].header.study_uid, series_uid=stored[0].header.series_uid)
    assert set(uids()) == {*expected, new.header.sop_uid}
    execute(
        "UPDATE instances SET hidden = true WHERE study_fk = (SELECT study_pk FROM studies WHERE study_uid = %s)"
        f" AND sop_uid = '{new.header.sop_uid}'"
    )
    assert uids() == expected
    execute('UPDATE studies SET corrections = \'{"00100020": {"vr": "LO", "Value": ["NEW"]}}\' WHERE study_uid = %s')
    assert {one["00100020"]["Value"][0] for one in http.get(path).json()} == {"NEW"}
    assert len(set(archive.store.keys())) == count + 1 + (count >= 8)  # older versions are not left behind


def test_metadata_compressed_for_those_who_take_it(http: httpx.Client, series: Any) -> None:
    stored = series(9)
    path = path_of(stored[0], "series") + "/metadata"
    for _ in range(2):
        with http.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as packed:
            assert packed.headers["content-encoding"] == "gzip"
            raw = b"".join(packed.iter_raw())
        with http.stream("GET", path, headers={"Accept-Encoding": "identity, gzip;q=0"}) as plain:
            assert "content-encoding" not in plain.headers
            assert json.loads(gzip.decompress(raw)) == json.loads(b"".join(plain.iter_raw()))


def test_who_took_a_study_is_noted_once(http: httpx.Client, series: Any) -> None:
    stored = series(3)
    for one in stored:
        http.get(path_of(one))
        http.get(path_of(one) + "/metadata")
    log = http.get("/api/audit", params={"study_uid": stored[0].header.study_uid}).json()["items"]
    actions = [entry["action"] for entry in log]
    assert (actions.count("study.retrieved"), actions.count("study.viewed")) == (1, 1)


def test_objects_in_the_transfer_syntax_that_was_asked_for(archive: Archive, http: httpx.Client) -> None:
    pixels = np.random.default_rng(2).integers(0, 4096, (64, 48)).astype(np.uint16)
    packed = pydicom.dcmread(part10(pixels))
    packed.compress(JPEGLSLossless, generate_instance_uid=False)
    file = io.BytesIO()
    packed.save_as(file)
    stored = archive.add(pixels, content=file.getvalue(), transfer_syntax=JPEGLSLossless)
    path = path_of(stored)

    def got(accept: str) -> pydicom.Dataset:
        answer = http.get(path, headers={"Accept": accept})
        assert answer.status_code == 200, answer.text
        return pydicom.dcmread(io.BytesIO(answer.content))

    as_stored = got("application/dicom; transfer-syntax=*")
    assert as_stored.file_meta.TransferSyntaxUID == JPEGLSLossless
    preferred = f"application/dicom; transfer-syntax={JPEGLSLossless}, application/dicom; transfer-syntax={EXPLICIT}"
    assert got(preferred).file_meta.TransferSyntaxUID == JPEGLSLossless
    for accept in ("application/dicom", f"application/dicom; transfer-syntax={EXPLICIT}"):
        plain = got(accept)
        assert plain.file_meta.TransferSyntaxUID == EXPLICIT
        assert (plain.pixel_array == pixels).all()
    ((kind, data),) = parts_of(http.get(path_of(stored, "study")))
    assert kind == f"application/dicom; transfer-syntax={EXPLICIT}"
    assert pydicom.dcmread(io.BytesIO(data)).PixelData == pixels.tobytes()
    problem(http.get(path, headers={"Accept": "application/dicom; transfer-syntax=1.2.840.10008.1.2.4.100"}), 406)


def test_what_cannot_be_given_as_asked_is_left_out(archive: Archive, http: httpx.Client, series: Any) -> None:
    (plain,) = series(1)
    film = archive.add(study_uid=plain.header.study_uid, transfer_syntax="1.2.840.10008.1.2.4.102")
    answer = http.get(path_of(plain, "study"))
    assert (answer.status_code, len(parts_of(answer))) == (206, 1)
    problem(http.get(path_of(film)), 406)
    whole = http.get(path_of(plain, "study"), headers={"Accept": ANY})
    assert (whole.status_code, len(parts_of(whole))) == (200, 2)


def test_metadata_as_xml(archive: Archive, http: httpx.Client, series: Any) -> None:
    stored = series(2)
    accept = {"Accept": 'multipart/related; type="application/dicom+xml"'}
    parts = parts_of(http.get(path_of(stored[0], "series") + "/metadata", headers=accept))
    assert [kind for kind, _ in parts] == ["application/dicom+xml"] * 2
    for one, (_, data) in zip(stored, parts, strict=True):
        found = {element.get("tag"): element for element in ElementTree.fromstring(data)}
        assert found["00080018"].findtext("{*}Value") == one.header.sop_uid
        (bulk,) = found["7FE00010"]
        assert path_of(one) in str(bulk.get("uri"))
    ((_, alone),) = parts_of(http.get(path_of(stored[0]) + "/metadata", headers=accept))
    assert alone == parts[0][1]
