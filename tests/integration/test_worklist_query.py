"""Pages of the worklist against a plain Python reading of the same rows."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from storage import audit, matching, names, workers, worklist
from storage.database import Connection, Database
from storage.errors import InvalidInput, NotFound
from storage.studies import Indexer, Received

Make = Callable[..., Received]

NAMES = [
    "Nguyễn^Văn An",
    "Trần^Thị Bích",
    "NGUYEN^VAN BINH",
    "Lê^An",
    "Đỗ^Hoàng Yến",
    "Smith^John",
    "Yamada^Taro=山田^太郎",
]
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
COUNT = 600


@pytest.fixture(scope="module")
def filled(postgres: str, migrated_template: str) -> Iterator[Database]:
    """A database with studies of all sorts, for reading only."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE worklist_query TEMPLATE {migrated_template}")
    database = Database(make_conninfo(postgres, dbname="worklist_query"))
    yield database
    database.close()
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP DATABASE worklist_query WITH (FORCE)")


@pytest.fixture(scope="module")
def everything(filled: Database, make_received: Make) -> list[worklist.Item]:
    """All items of `filled`."""
    received = []
    for n in range(COUNT):
        at = START + dt.timedelta(minutes=n // 2)
        over: dict[str, Any] = {
            "patient_id": f"P{n // 3}",
            "accession_number": f"A{n // 2}",
            "patient_name": NAMES[n % len(NAMES)],
            "modality": ["DX", "CR", "CT", "DX"][n % 4],
            "study_date": START.date() + dt.timedelta(days=n % 30) if n % 31 else None,
            "received_at": at,
            "latest_due_at": at + dt.timedelta(hours=[1, 4, 24][n % 3]),
            "site": ["HANOI", "HUE"][n % 5 == 0],
            "not_eligible": "Not read." if n % 7 == 0 else "",
        }
        received.append(make_received(**over))
        if n % 10 == 0:
            received.append(make_received(**over, study_uid=received[-1].header.study_uid) if n % 20 else received[-1])
    Indexer(filled).index(received)
    with filled.transaction() as connection:
        connection.execute("UPDATE worklist SET flagged = study_fk % 11 = 0")
        for uid in list(dict.fromkeys(each.header.study_uid for each in received))[100:140]:
            worklist.mark_read(connection, uid, "dr")
        return [worklist.item(connection, uid) for (uid,) in connection.execute("SELECT study_uid FROM worklist")]


def pages(connection: Connection, limit: int, **asked: Any) -> list[worklist.Item]:
    """All items, page by page."""
    found: list[worklist.Item] = []
    after = None
    while True:
        page = worklist.page(connection, after=after, limit=limit, **asked)
        found += page.items
        assert len(page.items) == limit or page.next is None
        if page.next is None:
            return found
        after = page.next


def has_words(item: worklist.Item, asked: str) -> bool:
    return all(any(has.startswith(word) for has in names.words(item.patient_name)) for word in names.words(asked))


FILTERS: list[tuple[dict[str, Any], Callable[[worklist.Item], bool]]] = [
    ({}, lambda _: True),
    ({"flagged": True}, lambda item: item.flagged),
    ({"flagged": False}, lambda item: not item.flagged),
    ({"site": "HUE"}, lambda item: item.site == "HUE"),
    ({"site": "nowhere"}, lambda _: False),
    ({"status": "not_eligible"}, lambda item: item.status == "not_eligible"),
    ({"modality": "CT"}, lambda item: "CT" in item.modalities),
    ({"patient_id": "P7"}, lambda item: item.patient_id == "P7"),
    ({"accession": "A100"}, lambda item: item.accession_number == "A100"),
    ({"accession": "A1"}, lambda item: item.accession_number == "A1"),
    ({"patient_id": "a\0b", "site": "\0", "status": "\ud800"}, lambda _: False),
    ({"date_from": dt.date(2026, 1, 20)}, lambda item: (item.study_date or dt.date.min) >= dt.date(2026, 1, 20)),
    (
        {"date_from": dt.date(2026, 1, 5), "date_to": dt.date(2026, 1, 6)},
        lambda item: item.study_date in (dt.date(2026, 1, 5), dt.date(2026, 1, 6)),
    ),
    ({"name": "nguyen van an"}, lambda item: has_words(item, "nguyen van an")),
    ({"name": "AN NGUYỄN"}, lambda item: has_words(item, "an nguyen")),
    ({"name": "ngu v"}, lambda item: has_words(item, "ngu v")),
    ({"name": "do"}, lambda item: has_words(item, "do")),
    ({"name": "%"}, lambda _: True),
    ({"name": "nobody"}, lambda _: False),
    (
        {"name": "nguyen", "modality": "DX", "flagged": True, "site": "HANOI"},
        lambda item: has_words(item, "nguyen") and "DX" in item.modalities and item.flagged and item.site == "HANOI",
    ),
]


@pytest.mark.parametrize("rare", [0, matching._RARE], ids=["walking", "driven"])
@pytest.mark.parametrize("mode", ["triage", "arrival"])
@pytest.mark.parametrize(("asked", "test"), FILTERS, ids=[str(asked) for asked, _ in FILTERS])
def test_pages_hold_what_matches_in_order(  # noqa: PLR0917 - fixtures and cases
    filled: Database,
    everything: list[worklist.Item],
    monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, Any],
    test: Callable[[worklist.Item], bool],
    mode: str,
    rare: int,
) -> None:
    monkeypatch.setattr(matching, "_RARE", rare)
    monkeypatch.setattr(matching, "_COMMON", 50 if rare else 2)
    column = "due_at" if mode == "triage" else "arrived_at"
    expected = [item for item in everything if item.state == "open" and test(item)]
    expected.sort(key=lambda item: (getattr(item, column), item.study_uid))
    with filled.autocommit() as connection:
        found = pages(connection, 37, mode=mode, **asked)
    assert [item.study_uid for item in found] == [item.study_uid for item in expected]
    assert found == expected


def test_the_filters_of_this_test_find_something(everything: list[worklist.Item]) -> None:
    nothing = [asked for asked, test in FILTERS if not any(item.state == "open" and test(item) for item in everything)]
    assert len(nothing) == 3


def test_read_studies_come_latest_first(filled: Database, everything: list[worklist.Item]) -> None:
    expected = sorted(
        (item for item in everything if item.state == "read"),
        key=lambda item: (item.read_at, item.study_uid),
        reverse=True,
    )
    with filled.autocommit() as connection:
        found = pages(connection, 7, mode="triage", state="read")
    assert found == expected
    assert {item.read_by for item in found} == {"dr"}


def test_an_item_shows_the_name_plainly_and_counts_what_is_below(
    filled: Database, everything: list[worklist.Item]
) -> None:
    assert {item.patient_name for item in everything} == {names.display(name) for name in NAMES}
    assert sum(item.instance_count for item in everything) == COUNT + COUNT // 20
    assert {(item.series_count, item.instance_count) for item in everything} == {(1, 1), (2, 2)}


def cursor_of(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "é", "AAAA", "%%%%", cursor_of(None), cursor_of([]), cursor_of([1, 2, 3]),
     cursor_of(["due_at", "x", "1"]),
     cursor_of(["due_at", "2026-01-01T00:00:00", "1.2"]), cursor_of(["arrived_at", "2026-01-01T00:00:00+00:00", "1.2"]),
     cursor_of(["due_at", "2026-01-01T00:00:00+00:00", 5]), cursor_of(["due_at", "2026-01-01T00:00:00+00:00", "\0"]),
     cursor_of(["due_at", "2026-01-01T00:00:00+00:00", "\ud800"]), "W" * 100_000],
)  # fmt: skip
def test_a_cursor_that_is_not_ours_is_refused(filled: Database, cursor: str) -> None:
    with filled.autocommit() as connection, pytest.raises(InvalidInput, match="cursor"):
        worklist.page(connection, mode="triage", after=cursor)


def test_a_page_goes_on_where_it_stopped_though_the_list_changes(database: Database, make_received: Make) -> None:
    indexer = Indexer(database)
    received = [make_received(latest_due_at=START + dt.timedelta(hours=n)) for n in range(10)]
    indexer.index(received)
    with database.transaction() as connection:
        first = worklist.page(connection, mode="triage", limit=4)
        worklist.mark_read(connection, first.items[1].study_uid, "dr")
    indexer.index([make_received(latest_due_at=START - dt.timedelta(hours=1))])
    with database.autocommit() as connection:
        second = worklist.page(connection, mode="triage", limit=4, after=first.next)
    assert [item.study_uid for item in second.items] == [each.header.study_uid for each in received[4:8]]


def test_reading_and_reopening_keep_the_due_time_and_are_audited(database: Database, make_received: Make) -> None:
    received = make_received()
    Indexer(database).index([received])
    uid = received.header.study_uid
    with database.transaction() as connection:
        for _ in range(2):
            worklist.mark_read(connection, uid, "dr")
        read = worklist.item(connection, uid)
        assert worklist.page(connection, mode="triage").items == []
        for _ in range(2):
            worklist.reopen(connection, uid, "nurse")
        back = worklist.item(connection, uid)
        entries = [(entry.actor, entry.action) for entry in audit.page(connection, study_uid=uid)]
    assert (read.state, read.read_by, read.read_at is None) == ("read", "dr", False)
    assert (back.state, back.read_by, back.read_at, back.due_at) == ("open", "", None, received.latest_due_at)
    assert entries == [("nurse", "study.reopened"), ("dr", "study.read"), ("MODALITY", "study.arrived")]


@pytest.mark.parametrize("call", [worklist.mark_read, worklist.reopen])
def test_an_unknown_study_is_not_found(database: Database, call: Callable[[Connection, str, str], None]) -> None:
    with database.autocommit() as connection:
        with pytest.raises(NotFound):
            call(connection, "1.2.3", "dr")
        with pytest.raises(NotFound):
            worklist.item(connection, "1.2.3")


def test_the_mode_follows_the_workers(database: Database) -> None:
    broken = workers.Worker(worker="a", problem="The weights have another digest.")
    healthy = workers.Worker(worker="b", model="cxr 1", weights_sha256="ab", engine="openvino")
    with database.autocommit() as connection:
        nobody = worklist.mode(connection)
        workers.beat(connection, broken)
        no_model = worklist.mode(connection)
        workers.beat(connection, healthy)
        workers.beat(connection, healthy)
        both = worklist.mode(connection)
        silent = worklist.mode(connection, stale_s=-1)
        workers.leave(connection, "b")
        left = worklist.mode(connection)
    assert (nobody.mode, both, left) == ("arrival", worklist.Mode("triage", ""), no_model)
    assert "No model is running" in nobody.banner
    assert silent == nobody
    assert no_model.mode == "arrival"
    assert "another digest" in no_model.banner


def test_announce_wakes_a_listener(database: Database) -> None:
    with database.connect() as listener, database.autocommit() as connection:
        listener.execute(f"LISTEN {worklist.CHANNEL}")
        worklist.announce(connection)
        assert len(list(listener.notifies(timeout=5, stop_after=1))) == 1
