"""The one way in: durable, then visible, then answered; and what happens to what cannot be served."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pydicom
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from elements import BIG, CT, DEFLATED, EXPLICIT, IMPLICIT, ROOT, data_set, element

from pacs.ingest import Arrival, Ingest
from storage import set_aside
from storage.database import Database
from storage.errors import DatabaseUnavailable, InvalidDataSet, ObjectStoreUnavailable, ObjectTooLarge
from storage.objects.directory import DirectoryStore
from storage.received import InstanceHeader

Send = Callable[..., str]


@pytest.fixture
def ingest(database: Database, store: DirectoryStore) -> Iterator[Ingest]:
    made = make_ingest(database, store)
    yield made
    made.close()


def make_ingest(database: Database, store: Any, **over: Any) -> Ingest:
    def screen(header: InstanceHeader) -> str:
        return "" if header.modality == "DX" else "only radiographs are read"

    def arrival(_header: InstanceHeader, at: dt.datetime, _site: str) -> Arrival:
        return Arrival("urgent", at + dt.timedelta(hours=1))

    return Ingest(database, store, screen=screen, arrival=arrival, **over)


def send(
    ingest: Ingest, data: bytes, *, n: int | str = 1, syntax: str = EXPLICIT, size: int = 1 << 17, **over: Any
) -> str:
    said = {"sop_class": CT, "sop_uid": f"{ROOT}.3.{n}", "source_aet": "CT1", "source_address": "10.0.0.7", **over}
    with ingest.receive(transfer_syntax=syntax, **said) as incoming:
        buffer = bytearray(size)
        for at in range(0, len(data), size):
            piece = data[at : at + size]
            buffer[: len(piece)] = piece
            incoming.write([memoryview(buffer)[: len(piece)]])
            buffer[:] = b"\xaa" * size  # the memory is used again
        return incoming.commit()


def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    with database.transaction() as connection:
        return connection.execute(query).fetchall()  # type: ignore[call-overload, no-any-return]


def aside(database: Database) -> list[set_aside.SetAside]:
    with database.transaction() as connection:
        return set_aside.page(connection)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
@pytest.mark.parametrize("size", [7, 1 << 17])
def test_the_bytes_that_came_are_the_bytes_that_are_kept(
    ingest: Ingest, database: Database, store: DirectoryStore, syntax: str, size: int
) -> None:
    data = data_set(syntax, pixels=bytes(range(256)) * 100)
    assert send(ingest, data, syntax=syntax, size=size) == "stored"
    ((key, total, offset, digest, kept_syntax, aet),) = rows(
        database, "SELECT object_key, object_size, dataset_offset, sha256, transfer_syntax, source_aet FROM instances"
    )
    file = store.read(key)
    assert file[offset:] == data
    assert (len(file), kept_syntax, aet) == (total, syntax, "CT1")
    assert hashlib.sha256(data).digest() == digest
    read = pydicom.dcmread(io.BytesIO(file))
    assert read.SOPInstanceUID == read.file_meta.MediaStorageSOPInstanceUID
    assert read.file_meta.SourceApplicationEntityTitle == "CT1"


def test_a_deflated_object_is_kept_as_it_came(ingest: Ingest, database: Database) -> None:
    packer = zlib.compressobj(wbits=-15)
    data = packer.compress(data_set(pixels=bytes(5000))) + packer.flush()
    assert send(ingest, data, syntax=DEFLATED) == "stored"
    assert rows(database, "SELECT rows, sha256 FROM instances") == [(512, hashlib.sha256(data).digest())]


def test_a_radiograph_gets_a_job_and_other_images_the_reason_why_not(ingest: Ingest, database: Database) -> None:
    send(ingest, data_set(n=1, t00080060=b"CSDX"), n=1)
    send(ingest, data_set(n=2, study=2), n=2)
    assert rows(
        database,
        "SELECT sop_uid, triage, triage_reason, job_pk IS NOT NULL"
        " FROM instances LEFT JOIN jobs ON instance_fk = instance_pk ORDER BY 1",
    ) == [
        (f"{ROOT}.3.1", "waiting", "", True),
        (f"{ROOT}.3.2", "not_eligible", "only radiographs are read", False),
    ]
    assert rows(database, "SELECT status, latest_due_at - arrived_at FROM worklist ORDER BY study_uid") == [
        ("waiting", dt.timedelta(hours=1)),
        ("not_eligible", dt.timedelta(hours=1)),
    ]


def test_workers_and_pages_hear_of_it(ingest: Ingest, database: Database) -> None:
    with database.connect() as listening:
        listening.execute("LISTEN sangloc_jobs")
        listening.execute("LISTEN sangloc_worklist")
        send(ingest, data_set(t00080060=b"CSDX"))
        heard = set()
        for notice in listening.notifies(timeout=10, stop_after=2):
            heard.add(notice.channel)
    assert heard == {"sangloc_jobs", "sangloc_worklist"}


def test_what_was_announced_last_is_sent_before_closing(database: Database, store: DirectoryStore) -> None:
    with database.connect() as listening:
        listening.execute("LISTEN sangloc_jobs")
        for n in range(3):
            ingest = make_ingest(database, store)
            send(ingest, data_set(n=n, t00080060=b"CSDX"), n=n)
            ingest.close()
            assert [notice.channel for notice in listening.notifies(timeout=10, stop_after=1)] == ["sangloc_jobs"]


def test_the_files_of_a_study_share_a_folder(ingest: Ingest, store: DirectoryStore) -> None:
    for n in range(5):
        send(ingest, data_set(n=n, study="7"), n=n)
    assert len({key.rsplit("/", 1)[0] for key in [*store.keys()]}) == 1


def test_the_same_bytes_again_are_a_duplicate_and_stored_once(ingest: Ingest, store: DirectoryStore) -> None:
    assert [send(ingest, data_set()) for _ in range(3)] == ["stored", "duplicate", "duplicate"]
    assert len(list(store.keys())) == 1


def test_other_bytes_under_the_same_uid_are_kept_aside_once(
    ingest: Ingest, database: Database, store: DirectoryStore
) -> None:
    first, other = data_set(t00081030=b"LOfirst"), data_set(t00081030=b"LOother")
    assert [send(ingest, data) for data in (first, other, other, first)] == [
        "stored",
        "conflict",
        "conflict",
        "duplicate",
    ]
    ((digest,),) = rows(database, "SELECT sha256 FROM instances")
    assert digest == hashlib.sha256(first).digest()
    (kept,) = aside(database)
    assert (kept.kind, kept.sha256) == ("conflict", hashlib.sha256(other).digest())
    assert store.read(kept.object_key)[kept.dataset_offset :] == other
    assert len(list(store.keys())) == 2


@pytest.mark.parametrize(
    ("data", "over", "reason"),
    [
        (b"", {}, "SOP Class UID (0008,0016) is missing"),
        (b"garbage" * 1000, {}, "is missing"),
        (data_set(t00080018=b"UI"), {}, "SOP Instance UID (0008,0018) is missing"),
        (data_set(t0020000D=b"UI"), {}, "Study Instance UID (0020,000D) is missing"),
        (data_set(t0020000E=b"UI1.02"), {}, "Series Instance UID (0020,000E) is invalid"),
        (data_set(t00080018=b"UI../../x"), {"sop_uid": "../../x"}, "SOP Instance UID (0008,0018) is invalid"),
        (data_set(n=2), {}, "SOP Instance UID of the command and of the data set disagree"),
        (data_set(), {"sop_class": "1.2.3"}, "SOP Class UID of the command and of the data set disagree"),
        (b"\xff" * 100, {"syntax": DEFLATED}, "cannot be inflated"),
    ],
)
def test_what_cannot_be_indexed_is_kept_aside_once_with_the_reason(
    ingest: Ingest, store: DirectoryStore, data: bytes, over: dict[str, Any], reason: str
) -> None:
    database = ingest.database
    for _ in range(2):
        with pytest.raises(InvalidDataSet) as caught:
            send(ingest, data, **over)
        assert reason in str(caught.value)
    (kept,) = aside(database)
    assert kept.kind == "invalid"
    assert reason in kept.reason
    assert [*store.keys()] == [kept.object_key]
    assert store.read(kept.object_key)[kept.dataset_offset :] == data
    assert rows(database, "SELECT count(*) FROM studies") == [(0,)]


def test_an_object_that_is_too_large_leaves_nothing(database: Database, store: DirectoryStore) -> None:
    ingest = make_ingest(database, store, max_object_bytes=50_000)
    with pytest.raises(ObjectTooLarge, match="50000 bytes"):
        send(ingest, data_set(pixels=bytes(50_000)), size=10_000)
    assert send(ingest, data_set(pixels=bytes(40_000))) == "stored"
    assert len([*store.keys()]) == 1
    ingest.close()


@pytest.mark.parametrize("sent", [0, 100, 20_000])
def test_an_object_that_is_given_up_leaves_nothing(
    ingest: Ingest, database: Database, store: DirectoryStore, sent: int
) -> None:
    said = {
        "sop_class": CT,
        "sop_uid": f"{ROOT}.3.1",
        "transfer_syntax": EXPLICIT,
        "source_aet": "",
        "source_address": "",
    }
    with ingest.receive(**said) as incoming:
        incoming.write([data_set(pixels=bytes(40_000))[:sent]])
    assert [*store.keys()] == []
    assert rows(database, "SELECT count(*) FROM instances") == [(0,)]


def test_a_giant_private_element_before_the_study_uid(ingest: Ingest, database: Database) -> None:
    data = element(0x00091010, "UN", bytes(3 << 20)) + data_set()
    assert send(ingest, data) == "stored"
    assert rows(database, "SELECT study_uid, sha256 FROM instances JOIN studies ON study_pk = study_fk") == [
        (f"{ROOT}.1.1", hashlib.sha256(data).digest())
    ]


def test_the_site_comes_from_the_sender(database: Database, store: DirectoryStore) -> None:
    ingest = make_ingest(database, store, site_of=lambda aet, address: f"{aet} at {address}")
    send(ingest, data_set())
    assert rows(database, "SELECT site FROM studies") == [("CT1 at 10.0.0.7",)]
    ingest.close()


def test_the_object_is_durable_before_a_row_names_it(database: Database, tmp_path: Path) -> None:
    """PS3.4 B.2.3: success means that the SCP has taken over the responsibility."""
    order: list[tuple[str, int]] = []

    class Watched(DirectoryStore):
        def writer(self, key: str) -> Any:
            writer = super().writer(key)
            commit = writer.commit

            def watched() -> None:
                order.append(("before fsync", rows(database, "SELECT count(*) FROM instances")[0][0]))
                commit()
                order.append(("after fsync", rows(database, "SELECT count(*) FROM instances")[0][0]))

            writer.commit = watched  # type: ignore[method-assign]
            return writer

    ingest = make_ingest(database, Watched(tmp_path / "watched"))
    send(ingest, data_set())
    assert order == [("before fsync", 0), ("after fsync", 0)]
    assert rows(database, "SELECT count(*) FROM instances") == [(1,)]
    ingest.close()


def test_rows_that_the_database_refuses_are_kept_aside_and_others_are_not_held_up(
    ingest: Ingest, database: Database, conninfo: str
) -> None:
    with psycopg.connect(conninfo, autocommit=True) as admin:
        admin.execute(f"ALTER TABLE instances ADD CHECK (sop_uid <> '{ROOT}.3.13')")
    with pytest.raises(InvalidDataSet, match="index cannot hold"):
        send(ingest, data_set(n=13), n=13)
    assert send(ingest, data_set(n=14), n=14) == "stored"
    (kept,) = aside(database)
    assert kept.sop_uid == f"{ROOT}.3.13"


def test_the_database_is_away(store: DirectoryStore) -> None:
    ingest = make_ingest(Database("host=127.0.0.1 port=1 user=nobody dbname=none"), store)
    started = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        send(ingest, data_set())
    with pytest.raises(DatabaseUnavailable):
        send(ingest, b"garbage" * 10)
    assert time.monotonic() - started < 3
    assert [*store.keys()] == []
    ingest.close()


def test_the_object_store_is_away_and_comes_back(database: Database, tmp_path: Path) -> None:
    root = tmp_path / "disk"
    root.write_text("not mounted")
    ingest = make_ingest(database, DirectoryStore(root))
    with pytest.raises(ObjectStoreUnavailable):
        send(ingest, data_set())
    assert rows(database, "SELECT count(*) FROM instances") == [(0,)]
    root.unlink()
    assert send(ingest, data_set()) == "stored"
    ingest.close()
