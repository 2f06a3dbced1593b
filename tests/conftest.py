"""Fixtures that all tests share: a real PostgreSQL, an object store, headers."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.migrate import migrate
from storage.studies import InstanceHeader, Received
from storage.uid import InstanceUID, SeriesUID, StudyUID

_numbers = itertools.count(1)
_ROOT = "1.2.826.0.1.3680043.9999"


@pytest.fixture(autouse=True)
def _logs_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that runs in this process must not send all later logs to its own output, which is closed by then."""
    monkeypatch.setattr("pacs.commandline._log_to_stderr", lambda _: None)


@contextlib.contextmanager
def _fast_folder() -> Iterator[Path]:
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2**31
    folder = Path(tempfile.mkdtemp(prefix="sangloc-test-", dir=memory if roomy else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def fast_path() -> Iterator[Path]:
    """A temporary folder, in memory where there is room: a database is some 300 small files to be fsynced."""
    with _fast_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The conninfo of an embedded PostgreSQL that lives as long as the test session."""
    with _fast_folder() as folder:
        server = EmbeddedPostgres(folder)
        try:
            yield server.start()
        finally:
            server.stop()


@pytest.fixture(scope="session")
def migrated_template(postgres: str) -> str:
    """The name of a migrated database from which others are copied in some 30 ms."""
    name = "migrated"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    database = Database(make_conninfo(postgres, dbname=name))
    migrate(database)
    database.close()
    return name


@pytest.fixture
def empty_conninfo(postgres: str) -> Iterator[str]:
    """The conninfo of a fresh database without tables."""
    yield from _fresh(postgres, "template1")


@pytest.fixture
def conninfo(postgres: str, migrated_template: str) -> Iterator[str]:
    """The conninfo of a fresh, migrated database."""
    yield from _fresh(postgres, migrated_template)


@pytest.fixture
def database(conninfo: str) -> Iterator[Database]:
    """A fresh, migrated database."""
    opened = Database(conninfo, max_connections=16)
    yield opened
    opened.close()


def _fresh(postgres: str, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY wal_log")
    yield make_conninfo(postgres, dbname=name)
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """An empty folder store."""
    from storage.objects.directory import DirectoryStore

    return DirectoryStore(tmp_path / "objects")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real Chromium without a window, for the tests of a module."""
    from browser import Browser

    opened = Browser(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and load tools beside the checkout."""
    path = Path(__file__).parents[2] / "shared"
    if not path.is_dir():
        pytest.skip("needs the folder ../shared with real images")
    return path


@pytest.fixture(scope="session")
def make_header() -> Callable[..., InstanceHeader]:
    """Headers of a frontal chest radiograph, each with UIDs of its own unless they are given."""

    def make(**over: Any) -> InstanceHeader:
        n = next(_numbers)
        values: dict[str, Any] = {
            "sop_class": "1.2.840.10008.5.1.4.1.1.1.1",
            "sop_uid": f"{_ROOT}.3.{n}",
            "study_uid": f"{_ROOT}.1.{n}",
            "series_uid": f"{_ROOT}.2.{n}",
            "transfer_syntax": "1.2.840.10008.1.2.1",
            "patient_id": f"P{n}",
            "patient_name": "Nguyễn^Văn An",
            "patient_birth_date": dt.date(1960, 2, 29),
            "patient_sex": "M",
            "study_date": dt.date(2026, 1, 2),
            "study_time": "101530",
            "accession_number": f"A{n}",
            "modality": "DX",
            "body_part": "CHEST",
            "view_position": "PA",
            "photometric": "MONOCHROME2",
            "rows": 100,
            "columns": 100,
            "bits_allocated": 16,
            **over,
        }
        for key, kind in (("sop_uid", InstanceUID), ("study_uid", StudyUID), ("series_uid", SeriesUID)):
            values[key] = kind(values[key])
        return InstanceHeader(**values)

    return make


@pytest.fixture(scope="session")
def make_received(make_header: Callable[..., InstanceHeader]) -> Callable[..., Received]:
    """Received objects: fields of `Received` and of its header by name; `content` gives the digest."""

    def make(*, content: bytes | None = None, **over: Any) -> Received:
        own = {key: over.pop(key) for key in list(over) if key in Received.__dataclass_fields__ and key != "header"}
        header = over.pop("header", None) or make_header(**over)
        at = own.get("received_at", dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC))
        values: dict[str, Any] = {
            "object_key": f"ab/cd/{next(_numbers):032x}.dcm",
            "object_size": 1000,
            "dataset_offset": 300,
            "sha256": hashlib.sha256(header.sop_uid.encode() if content is None else content).digest(),
            "source_aet": "MODALITY",
            "source_address": "127.0.0.1",
            "received_at": at,
            "site": "",
            "priority": "routine",
            "latest_due_at": at + dt.timedelta(hours=4),
            **own,
        }
        return Received(header=header, **values)

    return make
