"""Folders as they are found on disks: every file is accounted for, none stops the others, a second run goes on."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.fileset import FileSet

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from elements import BIG, CT, DEFLATED, EXPLICIT, IMPLICIT, ROOT, data_set, element

from pacs.importing import ImportReport, import_folder
from pacs.ingest import Arrival, Ingest
from pacs.part10 import file_meta
from storage.database import Database
from storage.errors import InvalidInput, Unavailable
from storage.objects.directory import DirectoryStore


@pytest.fixture
def ingest(database: Database, store: DirectoryStore) -> Iterator[Ingest]:
    made = _ingest(database, store)
    yield made
    made.close()


def _ingest(database: Database, store: DirectoryStore) -> Ingest:
    return Ingest(
        database,
        store,
        screen=lambda _header: "",
        arrival=lambda _header, at, _site: Arrival("routine", at + dt.timedelta(hours=4)),
    )


def _part10(n: int | str, syntax: str = EXPLICIT, **over: bytes) -> bytes:
    return file_meta(CT, f"{ROOT}.3.{n}", syntax) + data_set(syntax, n=n, **over)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "in"
    (made / "deep" / "deeper").mkdir(parents=True)
    return made


def _counts(report: ImportReport) -> tuple[int, ...]:
    return report.stored, report.duplicate, report.conflict, report.not_dicom, report.skipped, len(report.failed)


def test_all_kinds_of_files(ingest: Ingest, database: Database, store: DirectoryStore, folder: Path) -> None:
    packer = zlib.compressobj(wbits=-15)
    deflated = packer.compress(data_set(n="4")) + packer.flush()
    (folder / "1.dcm").write_bytes(_part10(1))
    (folder / "deep" / "no suffix").write_bytes(_part10(2, IMPLICIT))
    (folder / "deep" / "deeper" / "Nguyễn.DCM").write_bytes(_part10(3, BIG))
    (folder / "deep" / "4").write_bytes(file_meta(CT, "", DEFLATED) + deflated)
    (folder / "bare").write_bytes(element(0x00080005, "CS", "ISO_IR 192") + data_set(n=5))
    (folder / "bare implicit").write_bytes(element(0x00080005, "CS", "ISO_IR 192", IMPLICIT) + data_set(IMPLICIT, n=6))
    (folder / "without group length").write_bytes(_part10(7)[:132] + _part10(7)[144:])
    (folder / "anonymised").write_bytes(file_meta(CT, "1.2.3", EXPLICIT) + data_set(n=8))  # file meta left as it was
    (folder / "copy of 1").write_bytes(_part10(1))
    (folder / "notes.txt").write_text("hello " * 100)
    (folder / "empty").touch()
    (folder / "looks like one").write_bytes(element(0x00080005, "CS", "x") + b"but is none" * 100)
    (folder / "no study").write_bytes(_part10(9, t0020000D=b"UI"))
    (folder / "cut off").write_bytes(_part10(10)[:200])
    os.mkfifo(folder / "pipe")
    (folder / "dangling").symlink_to("nowhere")
    seen: list[tuple[int, int]] = []
    report = import_folder(ingest, folder, progress=lambda report, total: seen.append((report.files, total)))
    assert _counts(report) == (8, 1, 0, 4, 0, 3)
    assert [(path.name, reason) for path, reason in report.failed] == [
        ("cut off", "The file meta information is broken or cut off (PS3.10 7.1)"),
        ("dangling", f"[Errno 2] No such file or directory: '{folder / 'dangling'}'"),
        ("no study", "Study Instance UID (0020,000D) is missing"),
    ]
    assert seen == [(n, 16) for n in range(1, 17)]
    with database.transaction() as connection:
        found = connection.execute(
            "SELECT sop_uid, object_key, dataset_offset, sha256 FROM instances ORDER BY 1"
        ).fetchall()
    assert [row[0] for row in found] == [f"{ROOT}.3.{n}" for n in range(1, 9)]
    for _, key, offset, digest in found:
        assert hashlib.sha256(store.read(key)[offset:]).digest() == digest
    assert store.read(found[3][1]).endswith(deflated)
    assert pydicom.dcmread(io.BytesIO(store.read(found[7][1]))).file_meta.MediaStorageSOPInstanceUID == f"{ROOT}.3.8"


def test_a_second_run_goes_on_where_the_first_one_stopped(ingest: Ingest, folder: Path, tmp_path: Path) -> None:
    journal = tmp_path / "data" / "import.journal"
    for n in range(6):
        (folder / str(n)).write_bytes(_part10(n))
    (folder / "bad").write_bytes(_part10(99, t0020000D=b"UI"))
    assert _counts(import_folder(ingest, folder, resume=journal)) == (6, 0, 0, 0, 0, 1)
    (folder / "6").write_bytes(_part10(6))
    (folder / "0").write_bytes(_part10(0, t00081030=b"LOchanged since"))
    with journal.open("r+") as file:
        file.truncate(len(journal.read_bytes()) - 5)  # killed in the middle of a line
    assert _counts(import_folder(ingest, folder, resume=journal)) == (1, 1, 1, 0, 4, 1)
    assert _counts(import_folder(ingest, folder, resume=journal)) == (0, 0, 0, 0, 7, 1)
    assert _counts(import_folder(ingest, folder)) == (0, 6, 1, 0, 0, 1)


def test_a_single_file_and_no_file(ingest: Ingest, folder: Path) -> None:
    (folder / "one").write_bytes(_part10(1))
    assert _counts(import_folder(ingest, folder / "one")) == (1, 0, 0, 0, 0, 0)
    assert _counts(import_folder(ingest, folder / "deep")) == (0, 0, 0, 0, 0, 0)
    with pytest.raises(InvalidInput, match="no folder"):
        import_folder(ingest, folder / "missing")


def test_a_dicomdir_is_not_an_object(ingest: Ingest, folder: Path) -> None:
    files = FileSet()
    files.add(
        pydicom.dcmread(
            io.BytesIO(
                _part10(
                    1, t00200010=b"SH1", t00080020=b"DA20240101", t00080030=b"TM10", t00080050=b"SHA", t00200011=b"IS1"
                )
            )
        )
    )
    files.write(folder / "media")
    files._stage["t"].cleanup()  # pydicom leaves this folder to the garbage collector, which warns
    report = import_folder(ingest, folder / "media")
    assert (report.stored, report.not_dicom, report.failed) == (1, 1, [])


def test_a_large_file_is_streamed(ingest: Ingest, store: DirectoryStore, folder: Path) -> None:
    pixels = os.urandom(1 << 20) * 5
    (folder / "large").write_bytes(_part10(1, pixels=pixels))
    assert import_folder(ingest, folder).stored == 1
    (key,) = store.keys()
    assert store.read(key).endswith(pixels)


def test_an_archive_that_stays_away_ends_the_import(
    store: DirectoryStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pacs.importing._PAUSE_S", 0.01)
    ingest = _ingest(Database("host=127.0.0.1 port=1 user=nobody dbname=none"), store)
    for n in range(4):
        (folder / str(n)).write_bytes(_part10(n))
    with pytest.raises(Unavailable):
        import_folder(ingest, folder, resume=tmp_path / "journal", threads=2)
    assert (tmp_path / "journal").read_text() == ""
    ingest.close()
