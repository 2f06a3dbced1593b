"""STOW-RS: what is answered with success is stored byte for byte; what is not, is told with its reason."""

from __future__ import annotations

import hashlib
import socket
import time
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from elements import CT, DEFLATED, EXPLICIT, ROOT, data_set, element
from http_server import problem
from stow import RELATED, body, closing, failures, part, part10, post, stored, storing

from api import server
from api.config import ApiConfig
from storage.database import Database
from storage.objects.directory import DirectoryStore

STUDY, OTHER = f"{ROOT}.1.1", f"{ROOT}.1.2"


@pytest.fixture
def http(database: Database, store: DirectoryStore) -> Iterator[httpx.Client]:
    with storing(database, store) as opened:
        yield opened


def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    with database.autocommit() as connection:
        return connection.execute(query).fetchall()


def test_what_is_stored_is_what_came(http: httpx.Client, database: Database, store: DirectoryStore) -> None:
    pixels = bytes(range(256)) * 2000
    files = [part10(n, pixels=pixels + bytes([n])) for n in range(3)]
    answer = post(http, body(*files))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/dicom+json"
    assert stored(answer) == [f"{ROOT}.3.{n}" for n in range(3)]
    assert failures(answer) == []
    module = answer.json()
    address = str(http.base_url).rstrip("/")
    assert module["00081190"] == {"vr": "UR", "Value": [f"{address}/dicom-web/studies/{STUDY}"]}
    first = module["00081199"]["Value"][0]
    assert first["00081190"]["Value"][0].endswith(f"/studies/{STUDY}/series/{ROOT}.2.1/instances/{ROOT}.3.0")
    assert first["00081150"] == {"vr": "UI", "Value": [CT]}
    kept = rows(database, "SELECT object_key, dataset_offset, sha256, source_aet FROM instances ORDER BY sop_uid")
    for n, (key, offset, digest, source) in enumerate(kept):
        sent = data_set(n=n, pixels=pixels + bytes([n]))
        assert store.read(key, offset) == sent
        assert bytes(digest) == hashlib.sha256(sent).digest()
        assert source == "STOW-RS"


@pytest.mark.parametrize("chunk", [1, 7, 1000, 70_001])
def test_pieces_of_any_size(http: httpx.Client, database: Database, chunk: int) -> None:
    whole = body(part10(1, pixels=b"\r\n--" * 1000), part10(2, pixels=b"\r" * 150_000 if chunk > 7 else b"\r\n"))
    answer = post(http, (whole[at : at + chunk] for at in range(0, len(whole), chunk)))
    assert answer.status_code == 200, (answer.text, answer.headers)
    assert rows(database, "SELECT count(*) FROM instances") == [(2,)]


def test_the_same_again_is_success_and_other_bytes_are_a_conflict(http: httpx.Client, database: Database) -> None:
    assert post(http, body(part10(1))).status_code == 200
    assert post(http, body(part10(1))).status_code == 200
    other = post(http, body(part10(1, t00200013=b"IS8")))
    assert other.status_code == 409
    assert failures(other) == [(f"{ROOT}.3.1", 0x0111)]
    assert rows(database, "SELECT kind FROM set_aside") == [("conflict",)]
    both = post(http, body(part10(1, t00200013=b"IS8"), part10(2)))
    assert both.status_code == 202
    assert (stored(both), failures(both)) == ([f"{ROOT}.3.2"], [(f"{ROOT}.3.1", 0x0111)])


def test_another_study_than_that_of_the_address_is_refused(http: httpx.Client, database: Database) -> None:
    answer = post(http, body(part10(1, study=1), part10(2, study=2)), study=STUDY)
    assert answer.status_code == 202
    assert (stored(answer), failures(answer)) == ([f"{ROOT}.3.1"], [(f"{ROOT}.3.2", 0xA901)])
    assert answer.headers["warning"] == '299 sangloc "The data set is of another study than the address"'
    assert rows(database, "SELECT sop_uid FROM instances") == [(f"{ROOT}.3.1",)]
    assert post(http, body(part10(2, study=2)), study=STUDY).status_code == 409
    problem(post(http, body(part10(1)), study="1.2.x"), 400)


def test_a_late_study_uid_is_checked_too(http: httpx.Client, database: Database, store: DirectoryStore) -> None:
    long = element(0x00091010, "OB", b"\0" * (3 << 20))
    data = data_set(n=1, study=2)
    at = data.index(b"\x10\x00\x10\x00PN")
    answer = post(http, body(part10(1, data=data[:at] + long + data[at:])), study=STUDY)
    assert failures(answer) == [(f"{ROOT}.3.1", 0xA901)]
    assert list(store.keys()) == []
    assert post(http, body(part10(1, data=data[:at] + long + data[at:])), study=OTHER).status_code == 200


@pytest.mark.parametrize(
    ("content", "reason", "status"),
    [
        (b"no DICOM at all", ("", 0xC000), 400),
        (b"", ("", 0xC000), 400),
        (part10(1, data=b""), (f"{ROOT}.3.1", 0xC000), 400),
        (part10(1, syntax="no uid"), (f"{ROOT}.3.1", 0xC122), 409),
        (part10(1, t00080016=b"UI1.2.840.10008.1.3.10"), (f"{ROOT}.3.1", 0x0122), 409),
        (part10(1, t00080016=b"UI1.2.3.4"), (f"{ROOT}.3.1", 0x0122), 409),
        (part10(1, t0020000D=b"UI../../etc/passwd"), (f"{ROOT}.3.1", 0xC000), 400),
        (part10(1)[:200], ("", 0xC000), 400),
    ],
    ids=["text", "empty", "no data set", "syntax", "directory", "private", "study uid", "cut meta"],
)
def test_what_cannot_be_stored(
    http: httpx.Client, database: Database, content: bytes, reason: tuple[str, int], status: int
) -> None:
    answer = post(http, body(content))
    assert answer.status_code == status, answer.text
    assert failures(answer) == [reason]
    assert stored(answer) == []
    together = post(http, body(part10(5), content, part10(6)))
    assert together.status_code == 202
    assert (len(stored(together)), failures(together)) == (2, [reason])
    assert rows(database, "SELECT count(*) FROM instances") == [(2,)]


def test_private_classes_by_setting(database: Database, store: DirectoryStore) -> None:
    with storing(database, store, ApiConfig(allow_private_sop_classes=True)) as http:
        assert post(http, body(part10(1, t00080016=b"UI1.2.3.4"))).status_code == 202  # the file meta says CT
        problem_free = post(http, body(part10(2)))
        assert problem_free.status_code == 200


def test_file_meta_that_names_another_object_is_a_warning(http: httpx.Client) -> None:
    answer = post(http, body(part10(1, data=data_set(n=2))))
    assert answer.status_code == 202
    assert stored(answer) == [f"{ROOT}.3.2"]
    assert answer.json()["00081199"]["Value"][0]["00081196"] == {"vr": "US", "Value": [0xB007]}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (part(part10(1)), RELATED),  # the closing boundary is missing
        (body(part10(1))[:-200], RELATED),
        (closing(), RELATED),  # no part
        (b"", RELATED),
        (b"garbage", RELATED),
        (b"\r\n--b-0xFFd9\r\nbroken header\r\n\r\n" + closing(), RELATED),
        (b"\r\n--b-0xFFd9\r\nA: " + b"a" * 5000 + b"\r\n\r\n" + closing(), RELATED),
        (b"\r\n--b-0xFFd9\r\n" + b"A: b\r\n" * 17 + b"\r\n" + closing(), RELATED),
        (b"x" * 70_000 + body(part10(1)), RELATED),  # an endless preamble
        (body(part10(1)), 'multipart/related; type="application/dicom"'),
        (body(part10(1)), 'multipart/related; type="application/dicom"; boundary=""'),
        (body(part10(1)), f'multipart/related; type="application/dicom"; boundary="{"x" * 71}"'),
        (body(part10(1)), 'multipart/related; type="application/dicom"; boundary="another"'),
    ],
)
def test_a_broken_body_stores_nothing(
    http: httpx.Client, database: Database, store: DirectoryStore, content: bytes, kind: str
) -> None:
    problem(post(http, content, kind=kind), 400)
    assert rows(database, "SELECT count(*) FROM instances") == [(0,)]
    assert list(store.keys()) == []


def test_what_came_before_the_break_stays_and_is_told(http: httpx.Client, database: Database) -> None:
    answer = post(http, body(part10(1), part10(2))[:-300])
    assert answer.status_code == 202
    assert (stored(answer), failures(answer)) == ([f"{ROOT}.3.1"], [("", 0xC000)])
    assert rows(database, "SELECT sop_uid FROM instances") == [(f"{ROOT}.3.1",)]


@pytest.mark.parametrize(
    "kind",
    [
        'Multipart/Related;BOUNDARY="b-0xFFd9";type=application/dicom',
        "multipart/related; boundary=b-0xFFd9",
        'multipart/related; start="<1>"; type="application/dicom; transfer-syntax=*"; boundary="b-0xFFd9"',
    ],
)
def test_content_types_as_they_come(http: httpx.Client, kind: str) -> None:
    assert post(http, b"preamble\r\n" + body(part10(1)) + b"epilogue", kind=kind).status_code == 200


def test_a_single_part(http: httpx.Client, database: Database) -> None:
    assert post(http, part10(1), kind="application/dicom").status_code == 200
    assert post(http, b"", kind="application/dicom").status_code == 400


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "multipart/form-data; boundary=b", 'multipart/related; type="image/jpeg"; boundary=b', "%%"],
)
def test_other_media_types(http: httpx.Client, kind: str) -> None:
    problem(post(http, body(part10(1)), kind=kind), 415)


def test_too_large_instances_are_refused_and_leave_the_others(database: Database, store: DirectoryStore) -> None:
    big = part10(1, pixels=b"\r" * 300_000)
    with storing(database, store, max_object_bytes=200_000) as http:
        alone = post(http, body(big))
        assert (alone.status_code, failures(alone)) == (413, [(f"{ROOT}.3.1", 0xA710)])
        both = post(http, body(big, part10(2)))
        assert (both.status_code, stored(both)) == (202, [f"{ROOT}.3.2"])
    assert len(list(store.keys())) == 1


def test_limits_of_the_request(database: Database, store: DirectoryStore) -> None:
    with storing(database, store, ApiConfig(max_store_bytes=100_000, max_store_parts=2)) as http:
        problem(post(http, body(part10(1, pixels=bytes(100_000)))), 413)
        problem(post(http, iter([body(part10(1, pixels=bytes(100_000)))])), 413)  # without Content-Length
        many = post(http, body(*(part10(n) for n in range(3))))
        assert (many.status_code, len(stored(many)), failures(many)) == (202, 2, [("", 0xA710)])
    assert len(list(store.keys())) == 2


def test_a_zip_bomb_is_not_inflated(http: httpx.Client, database: Database) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = data_set(n=1)
    bomb = packer.compress(head) + packer.compress(bytes(512 << 20)) + packer.flush()
    answer = post(http, body(part10(1, syntax=DEFLATED, data=bomb)))
    assert answer.status_code == 200  # kept as it came
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    endless = packer.compress(data_set(n=2)[:60]) + packer.compress(bytes(512 << 20)) + packer.flush()
    answer = post(http, body(part10(2, syntax=DEFLATED, data=endless)))
    assert failures(answer) == [(f"{ROOT}.3.2", 0xC000)]
    assert answer.elapsed.total_seconds() < 2
    assert rows(database, "SELECT transfer_syntax FROM instances") == [(DEFLATED,)]


def test_answers_as_asked_for(http: httpx.Client) -> None:
    for accept in ("", "*/*", "application/json", "application/dicom+json; q=0.5, text/html"):
        answer = post(http, body(part10(1)), Accept=accept)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom+json")
    problem(post(http, body(part10(9)), Accept="image/png"), 406)


def test_who_may(database: Database, store: DirectoryStore) -> None:
    config = ApiConfig(tokens={"CT1": "a-secret-of-enough-characters"})
    with storing(database, store, config) as http:
        problem(post(http, body(part10(1))), 401)
    with storing(database, store, config, "a-secret-of-enough-characters") as http:
        assert post(http, body(part10(1))).status_code == 200
    assert rows(database, "SELECT source_aet FROM instances") == [("CT1",)]


def test_a_server_without_a_way_in(database: Database, store: DirectoryStore) -> None:
    from http_server import client, serving

    with serving(database, store) as address, client(address) as http:
        problem(post(http, body(part10(1))), 503)


def test_syntaxes(http: httpx.Client, database: Database) -> None:
    assert post(http, body(part10(1, syntax=EXPLICIT))).status_code == 200
    assert post(http, body(data_set(n=2))).status_code == 200  # without preamble and file meta, as some software does
    assert rows(database, "SELECT count(*) FROM instances") == [(2,)]


def test_the_rest_of_a_refused_body_is_not_waited_for_for_ever(
    database: Database, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_LINGER_S", 0.5)
    head = b"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"

    def dribble(raw: socket.socket) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            raw.sendall(b"x")
            time.sleep(0.02)

    with (
        storing(database, store) as http,
        socket.create_connection((http.base_url.host, http.base_url.port or 0), 10) as raw,
    ):
        raw.sendall(head + b"Content-Length: 10000\r\n\r\nx")
        assert raw.recv(4096).startswith(b"HTTP/1.1 415")
        with pytest.raises(OSError, match=r"Broken pipe|reset"):  # closed, though bytes come in all the time
            dribble(raw)


def test_a_refused_body_that_comes_to_its_end_keeps_the_connection(http: httpx.Client) -> None:
    for _ in range(3):
        problem(post(http, b"x" * 3_000_000, kind="text/plain"), 415)
        assert post(http, body(part10(1))).status_code == 200
