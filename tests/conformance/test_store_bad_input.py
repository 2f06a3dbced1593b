"""C-STORE requests that cannot be served: a clear status, nothing lost, and the association lives on."""

from __future__ import annotations

import shutil
import time

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from raw_dicom import CT, EXPLICIT, IMPLICIT, VERIFICATION, data_set

from pacs.dimse.command import encode

MR = "1.2.840.10008.5.1.4.1.1.4"
PRIVATE = "1.2.840.113619.4.26"
UID = "1.2.3.5"


@pytest.mark.parametrize(
    "case",
    [
        (UID, data_set(None), 0xC000),
        (UID, data_set(UID, study_uid=None), 0xC000),
        (UID, data_set("1.2.3.6"), 0xC000),  # command and data set disagree
        (UID, data_set(UID, sop_class=MR), 0xC000),
        (UID, data_set(UID, study_uid="../../etc"), 0xC000),
        ("../../../tmp/x", data_set("../../../tmp/x"), 0x0117),
        ("1.2.." * 20, data_set("1.2.3"), 0x0117),
        ("", data_set(UID), 0x0117),
        (UID, b"\xff" * 5000, 0xC000),
        (UID, data_set(UID)[:30], 0xC000),
    ],
)
def test_what_cannot_be_indexed_is_refused_and_kept_aside(raw, stored, kept_aside, case):
    said, data, status = case
    client = raw().associate()
    answered, comment = client.store(said, data)
    assert answered == status
    assert comment
    assert [(kind, kept) for kind, _, kept in kept_aside()] == [("invalid", data)]
    assert stored(UID) is None
    assert client.store("1.2.3.99", data_set("1.2.3.99"))[0] == 0
    client.release()
    assert stored("1.2.3.99")


def test_a_class_other_than_that_of_the_context(raw, receiver):
    client = raw().associate()
    assert client.store(UID, data_set(UID, sop_class=MR), sop_class=MR)[0] == 0x0122
    assert client.store(UID, data_set(UID), context_id=1)[0] == 0x0122  # in the verification context
    assert client.echo() == 0
    client.release()
    assert receiver.receiver.counters["failed"] == 2


def test_a_private_class_is_refused_unless_allowed(raw, start_receiver, stored):
    client = raw().associate([(PRIVATE, [EXPLICIT])])
    assert client.results == {1: 3}  # abstract syntax not supported
    client.release()
    client = raw(start_receiver(allow_private_sop_classes=True).port).associate([(PRIVATE, [EXPLICIT])])
    data = data_set(UID, sop_class=PRIVATE)
    assert client.store(UID, data, context_id=1, sop_class=PRIVATE)[0] == 0
    client.release()
    assert stored(UID) == data


def test_a_request_without_a_data_set(raw):
    client = raw().associate()
    client.sock.sendall(client.pdv(3, 3, client.store_rq(UID, with_data=False)))
    assert client.answer()[0] == 0xC001
    assert client.echo() == 0


def test_an_object_over_the_limit_is_refused_at_its_end(raw, start_receiver, stored):
    client = raw(start_receiver(max_object_bytes=100_000).port).associate()
    assert client.store(UID, data_set(UID, pixels=b"x" * 150_000))[0] == 0xA710
    assert client.store(UID, data_set(UID, pixels=b"x" * 50_000))[0] == 0
    client.release()
    assert len(stored(UID)) < 100_000


def test_an_operation_that_is_not_served(raw):
    client = raw().associate()
    for operation, status in ((0x0020, 0x0122), (0x0150, 0x0211)):  # C-FIND of a storage class; N-DELETE
        asked = encode({0x0002: CT.encode(), 0x0100: operation, 0x0110: 7, 0x0700: 0, 0x0800: 0})
        client.sock.sendall(client.pdv(3, 3, asked) + client.pdv(3, 2, data_set(UID)))
        assert client.answer()[0] == status
    cancel = encode({0x0100: 0x0FFF, 0x0120: 7, 0x0800: 0x0101})
    client.sock.sendall(client.pdv(3, 3, cancel))  # asks for no answer
    assert client.echo() == 0


def test_the_database_is_away_and_comes_back(raw, conninfo, postgres, stored):
    """0xA700 quickly, nothing half-written, and work resumes by itself."""
    name = conninfo_to_dict(conninfo)["dbname"]
    client = raw().associate()
    assert client.store(UID, data_set(UID))[0] == 0
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        started = time.monotonic()
        assert client.store("1.2.3.6", data_set("1.2.3.6"))[0] == 0xA700
        assert time.monotonic() - started < 8
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    deadline = time.monotonic() + 20
    while client.store("1.2.3.6", data_set("1.2.3.6"))[0] != 0:
        assert time.monotonic() < deadline
    client.release()
    assert stored("1.2.3.6")


def test_the_object_store_is_away_and_comes_back(raw, tmp_path, stored):
    client = raw().associate()
    assert client.store(UID, data_set(UID))[0] == 0
    objects, away = tmp_path / "objects", tmp_path / "away"
    shutil.move(objects, away)
    objects.write_bytes(b"not a folder")
    assert client.store("1.2.3.6", data_set("1.2.3.6", "1.2.4", b"x" * 300_000))[0] == 0xA700
    assert client.echo() == 0
    objects.unlink()
    shutil.move(away, objects)
    assert client.store("1.2.3.6", data_set("1.2.3.6"))[0] == 0
    client.release()
    assert stored(UID)


def test_a_fault_of_ours_is_a_processing_failure_and_not_the_end(raw, start_receiver, ingest):
    broken = start_receiver()
    broken_store, ingest.store = ingest.store, None  # a bug in the way in
    client = raw(broken.port).associate([(VERIFICATION, [IMPLICIT]), (CT, [EXPLICIT])])
    assert client.store(UID, data_set(UID))[0] == 0x0110
    ingest.store = broken_store
    assert client.store(UID, data_set(UID))[0] == 0
    client.release()
