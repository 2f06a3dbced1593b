"""The metadata of a series is made once when it settles, and belongs to one version of it."""

from __future__ import annotations

import datetime as dt
import threading
from typing import Any

import orjson
import pytest
from archive import Archive
from running import until

from pacs import metadata
from pacs.tasks import Exchange, ExchangeConfig
from pacs.verify import verify
from storage.metadata import versions
from storage.studies import Received


def series(archive: Archive, count: int, age_s: float = 3600, **over: Any) -> list[Received]:
    """A series whose last instance came a while ago."""
    at = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=age_s)
    first = archive.add(arrived=at, instance_number=1, **over)
    same = {"study_uid": first.header.study_uid, "series_uid": first.header.series_uid} | over
    return [first, *(archive.add(arrived=at, instance_number=n, **same) for n in range(2, count + 1))]


def kept(archive: Archive, one: Received) -> str | None:
    with archive.database.autocommit() as connection:
        (found,) = versions(connection, one.header.study_uid, one.header.series_uid)
    return found.object_key


@pytest.fixture
def settling(archive: Archive) -> Any:
    """Runs the task until a condition holds."""

    def run(done: Any) -> None:
        stop = threading.Event()
        exchange = Exchange(archive.database, archive.store, ExchangeConfig(settle_s=60))
        thread = threading.Thread(target=metadata.settle, args=(exchange, stop))
        thread.start()
        try:
            until(done, 20, "the series are settled")
        finally:
            stop.set()
            thread.join(20)
            exchange.bells.close()
        assert not thread.is_alive()

    return run


def seen(archive: Archive) -> int:
    with archive.database.autocommit() as connection:
        row = connection.execute("SELECT instance_pk FROM series_metadata_seen").fetchone()
    assert row is not None
    return int(row[0])


def test_what_settled_is_kept_and_what_still_grows_is_not(archive: Archive, settling: Any) -> None:
    settled, small = series(archive, 9), series(archive, 3)
    growing = series(archive, 9)
    archive.add(
        study_uid=growing[0].header.study_uid, series_uid=growing[0].header.series_uid, arrived=dt.datetime.now(dt.UTC)
    )
    settling(lambda: seen(archive) >= 21)
    assert kept(archive, settled[0]) is not None
    assert kept(archive, small[0]) is None
    assert kept(archive, growing[0]) is None
    with archive.database.autocommit() as connection:
        connection.execute("UPDATE instances SET received_at = received_at - interval '1 hour'")
    settling(lambda: seen(archive) >= 22)
    assert kept(archive, growing[0]) is not None


def test_what_is_kept_says_what_the_headers_say(archive: Archive, settling: Any) -> None:
    stored = series(archive, 12)
    with archive.database.autocommit() as connection:
        (fresh,) = versions(connection, stored[0].header.study_uid)
    before = b"".join(metadata._fresh(archive.database, archive.store, fresh))
    settling(lambda: kept(archive, stored[0]))
    with archive.database.autocommit() as connection:
        (now,) = versions(connection, stored[0].header.study_uid)
    after = b"".join(metadata.series_json(archive.database, archive.store, now))
    assert after == before
    models = orjson.loads(b"[" + after.replace(metadata.BASE, b"http://a") + b"]")
    assert [one["00080018"]["Value"] for one in models] == [[one.header.sop_uid] for one in stored]


def test_a_series_without_its_objects_hurts_nobody(archive: Archive, settling: Any) -> None:
    lost, whole = series(archive, 9), series(archive, 9)
    for one in lost:
        archive.store.delete(one.object_key)
    settling(lambda: kept(archive, whole[0]))


def test_an_object_that_is_gone_is_made_again(archive: Archive, settling: Any) -> None:
    stored = series(archive, 9)
    settling(lambda: kept(archive, stored[0]))
    key = kept(archive, stored[0])
    assert key is not None
    archive.store.delete(key)
    with archive.database.autocommit() as connection:
        (found,) = versions(connection, stored[0].header.study_uid)
    assert b"".join(metadata.series_json(archive.database, archive.store, found)).count(b"7FE00010") > 9
    assert kept(archive, stored[0]) not in (None, key)


def test_what_is_kept_is_no_orphan(archive: Archive, settling: Any) -> None:
    stored = series(archive, 9)
    settling(lambda: kept(archive, stored[0]))
    report = verify(archive.database, archive.store, in_flight_s=0)
    assert (report.checked, report.orphans) == (9, [])


def test_nothing_that_a_sender_writes_becomes_an_address(archive: Archive) -> None:
    stored = series(archive, 9, part10_over={"PatientComments": "\x01 http://evil \\u0001"})
    with archive.database.autocommit() as connection:
        (found,) = versions(connection, stored[0].header.study_uid)
    raw = b"".join(metadata.series_json(archive.database, archive.store, found))
    assert raw.count(metadata.BASE) == 9  # that of the pixels of each
