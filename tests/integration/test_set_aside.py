"""Objects that are kept but not served, and the audit log."""

from __future__ import annotations

from typing import Any

import pytest

from storage import audit, set_aside
from storage.database import Connection, Database
from storage.errors import NotFound


def add(connection: Connection, **over: Any) -> bool:
    values: dict[str, Any] = {
        "kind": "invalid", "reason": "No Study Instance UID.", "sop_uid": "1.2.3", "object_key": "ab/cd/x.dcm",
        "object_size": 10, "dataset_offset": 3, "sha256": b"\x01" * 32, "source_aet": "CT1",
        "source_address": "10.0.0.1",
    }  # fmt: skip
    return set_aside.add(connection, **{**values, **over})


def test_the_same_bytes_are_kept_once(database: Database) -> None:
    with database.transaction() as connection:
        assert add(connection) is True
        assert add(connection, object_key="ab/cd/y.dcm") is False
        assert add(connection, sha256=b"\x02" * 32) is True
        assert add(connection, kind="conflict") is True
        kept = set_aside.page(connection, "invalid")
    assert [(each.sha256[0], each.object_key) for each in kept] == [(2, "ab/cd/x.dcm"), (1, "ab/cd/x.dcm")]


@pytest.mark.parametrize("sop_uid", ["", "../../etc/passwd", "1\0.2", "\udcff", "x" * 10_000])
def test_any_uid_from_the_wire_can_be_noted(database: Database, sop_uid: str) -> None:
    with database.transaction() as connection:
        assert add(connection, sop_uid=sop_uid, source_aet="\0\udcff") is True
        assert add(connection, sop_uid=sop_uid, object_key="ab/cd/y.dcm") is False
        (kept,) = set_aside.page(connection)
        assert set_aside.get(connection, kept.set_aside_pk) == kept


def test_pages_go_back_in_time(database: Database) -> None:
    with database.transaction() as connection:
        for n in range(5):
            add(connection, sha256=bytes([n]) * 32)
        first = set_aside.page(connection, limit=3)
        rest = set_aside.page(connection, before=first[-1].set_aside_pk, limit=3)
    assert [each.sha256[0] for each in first + rest] == [4, 3, 2, 1, 0]


def test_what_a_person_dealt_with_leaves_the_list_and_stays_known(database: Database) -> None:
    with database.transaction() as connection:
        add(connection)
        (kept,) = set_aside.page(connection)
        set_aside.resolve(connection, kept.set_aside_pk, "admin")
        assert set_aside.page(connection) == []
        (resolved,) = set_aside.page(connection, resolved=True)
        assert add(connection, object_key="ab/cd/y.dcm") is False
        (entry,) = audit.page(connection)
    assert resolved.resolved_at is not None
    assert (entry.actor, entry.action, entry.detail["sop_uid"]) == ("admin", "set_aside.resolved", "1.2.3")


def test_an_unknown_number_is_not_found(database: Database) -> None:
    with database.autocommit() as connection:
        with pytest.raises(NotFound):
            set_aside.get(connection, 1)
        with pytest.raises(NotFound):
            set_aside.resolve(connection, 1, "admin")


def test_the_audit_log_is_read_newest_first_by_study(database: Database) -> None:
    with database.transaction() as connection:
        for n in range(6):
            audit.add(connection, f"actor{n}", "looked", f"1.{n % 2}", {"n": n})
        audit.add(connection, "admin", "started")
        everything = audit.page(connection, limit=4)
        older = audit.page(connection, before=everything[-1].audit_pk)
        of_study = audit.page(connection, study_uid="1.1")
    assert [entry.actor for entry in everything] == ["admin", "actor5", "actor4", "actor3"]
    assert [entry.actor for entry in older] == ["actor2", "actor1", "actor0"]
    assert [entry.detail for entry in of_study] == [{"n": 5}, {"n": 3}, {"n": 1}]
