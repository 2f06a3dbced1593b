"""STOW-RS while object store or database are away: never success for what is not durable. And a client of others."""

from __future__ import annotations

import io
import shutil
import warnings
from collections.abc import Callable, Iterator

import httpx
import psycopg
import pydicom
import pytest
from elements import ROOT
from psycopg.conninfo import conninfo_to_dict
from stow import body, failures, part10, post, stored, storing

from storage.database import Database
from storage.objects.directory import DirectoryStore


@pytest.fixture
def http(database: Database, store: DirectoryStore) -> Iterator[httpx.Client]:
    with storing(database, store) as opened:
        yield opened


@pytest.fixture
def away(postgres: str, conninfo: str) -> Callable[[bool], None]:
    """Takes the database away, or lets it come back."""
    name = conninfo_to_dict(conninfo)["dbname"]

    def switch(gone: bool) -> None:
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {not gone}")  # type: ignore[call-overload]
            if gone:
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))

    return switch


def test_without_database(
    http: httpx.Client, database: Database, store: DirectoryStore, away: Callable[[bool], None]
) -> None:
    assert post(http, body(part10(1))).status_code == 200
    away(True)
    answer = post(http, body(*(part10(n) for n in range(2, 30))))
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert failures(answer) == [(f"{ROOT}.3.{n}", 0xA700) for n in range(2, 30)]
    assert answer.headers["warning"] == '299 sangloc "The database cannot be reached."'
    assert answer.elapsed.total_seconds() < 10, "the first failure tells of the others"
    away(False)
    again = post(http, body(*(part10(n) for n in range(1, 30))))
    assert (again.status_code, len(stored(again))) == (200, 29)
    with database.autocommit() as connection:
        keys = {key for (key,) in connection.execute("SELECT object_key FROM instances").fetchall()}
    assert len(keys) == 29
    assert keys <= set(store.keys())


def test_without_object_store(http: httpx.Client, database: Database, store: DirectoryStore) -> None:
    assert post(http, body(part10(1))).status_code == 200
    root = store._root
    shutil.move(root, root.with_name("elsewhere"))
    root.write_text("no folder")
    answer = post(http, body(part10(2, study=2), part10(3, study=3)))
    assert (answer.status_code, stored(answer)) == (503, [])
    assert {reason for _, reason in failures(answer)} == {0xA700}
    assert str(root) not in answer.text + answer.headers["warning"]
    root.unlink()
    shutil.move(root.with_name("elsewhere"), root)
    assert post(http, body(part10(2, study=2))).status_code == 200
    with database.autocommit() as connection:
        assert connection.execute("SELECT count(*) FROM instances").fetchone() == (2,)


def test_dicomweb_client(http: httpx.Client, database: Database, store: DirectoryStore) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        from dicomweb_client.api import DICOMwebClient

    sent = [pydicom.dcmread(io.BytesIO(part10(n, pixels=bytes([n]) * 1000))) for n in range(1, 4)]
    web = DICOMwebClient(f"{str(http.base_url).rstrip('/')}/dicom-web")
    answer = web.store_instances(sent)
    assert [item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence] == [
        one.SOPInstanceUID for one in sent
    ]
    assert "FailedSOPSequence" not in answer
    sent[0].InstanceNumber = 99
    conflict = web.store_instances(sent, study_instance_uid=sent[0].StudyInstanceUID)
    assert [item.FailureReason for item in conflict.FailedSOPSequence] == [0x0111]
