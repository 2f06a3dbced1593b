"""`sangloc verify`: what is damaged, what is missing, what belongs to nobody; and nothing else is touched."""

from __future__ import annotations

import datetime as dt
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from elements import CT, EXPLICIT, ROOT, data_set

from pacs.ingest import Arrival, Ingest
from pacs.verify import verify
from storage.database import Database
from storage.errors import InvalidDataSet, InvalidInput
from storage.objects.directory import DirectoryStore
from storage.objects.keys import new_key

Keep = Callable[..., str]


@pytest.fixture
def keep(database: Database, store: DirectoryStore) -> Iterator[Keep]:
    """Stores an instance and returns the key of its object."""
    ingest = Ingest(
        database,
        store,
        screen=lambda _header: "",
        arrival=lambda _header, at, _site: Arrival("routine", at + dt.timedelta(hours=4)),
    )

    def send(n: int, **over: bytes) -> str:
        before = set(store.keys())
        said = {"sop_class": CT, "sop_uid": f"{ROOT}.3.{n}", "transfer_syntax": EXPLICIT}
        with ingest.receive(**said, source_aet="CT1", source_address="") as incoming:
            incoming.write([data_set(n=n, pixels=bytes(3000), **over)])
            incoming.commit()
        (key,) = set(store.keys()) - before
        return key

    yield send
    ingest.close()


def _leave(store: DirectoryStore, age_s: float) -> str:
    """An object that no row names."""
    key = new_key("nobody's")
    with store.writer(key) as writer:
        writer.write([b"left over"])
        writer.commit()
    path = store.path(key)
    assert path
    os.utime(path, (time.time() - age_s,) * 2)
    return key


def test_a_sound_archive(database: Database, store: DirectoryStore, keep: Keep) -> None:
    for n in range(5):
        keep(n)
    keep(0, t00081030=b"LOanother")  # a conflict, kept aside
    with pytest.raises(InvalidDataSet):
        keep(9, t0020000D=b"UI")
    seen: list[tuple[int, int]] = []
    report = verify(database, store, in_flight_s=0, progress=lambda report, total: seen.append((report.checked, total)))
    assert (report.sound, report.checked, report.damaged, report.orphans) == (True, 7, [], [])
    assert report.bytes == sum(store.size(key) for key in [*store.keys()])
    assert seen[-1] == (7, 7)


def test_every_kind_of_damage_is_named(database: Database, store: DirectoryStore, keep: Keep) -> None:
    whole, flipped, shorter, longer, missing = (keep(n) for n in range(5))
    for key, change in (
        (flipped, lambda content: content[:-1] + b"\xff"),
        (shorter, lambda content: content[:-1]),
        (longer, lambda content: content + b"\0"),
    ):
        path = Path(str(store.path(key)))
        path.write_bytes(change(path.read_bytes()))
    store.delete(missing)
    report = verify(database, store)
    size = store.size(whole)
    assert not report.sound
    assert [(damage.sop_uid, damage.object_key, damage.problem) for damage in report.damaged] == [
        (f"{ROOT}.3.1", flipped, "other bytes than were acknowledged"),
        (f"{ROOT}.3.2", shorter, f"{size - 1} bytes instead of {size}"),
        (f"{ROOT}.3.3", longer, f"{size + 1} bytes instead of {size}"),
        (f"{ROOT}.3.4", missing, "missing"),
    ]
    assert (report.checked, report.damaged_count) == (5, 4)


def test_objects_without_rows_are_found_but_not_those_in_flight(
    database: Database, store: DirectoryStore, keep: Keep
) -> None:
    kept, old, young = keep(1), _leave(store, 7200), _leave(store, 0)
    report = verify(database, store)
    assert (report.orphans, report.orphan_count, report.removed, report.sound) == ([old], 1, 0, True)
    assert {*store.keys()} == {kept, old, young}
    assert verify(database, store, remove_orphans=True).removed == 1
    assert {*store.keys()} == {kept, young}


def test_a_store_that_tells_no_age_is_asked_twice(
    database: Database, store: DirectoryStore, keep: Keep, tmp_path: Path
) -> None:
    class Ageless(DirectoryStore):
        def path(self, key: str) -> None:  # type: ignore[override]  # noqa: ARG002
            return None

    keep(1)
    left = _leave(store, 0)
    started = time.monotonic()
    report = verify(database, Ageless(tmp_path / "objects"), in_flight_s=0.3)
    assert report.orphans == [left]
    assert time.monotonic() - started >= 0.3


def test_nothing_is_removed_for_an_index_that_names_nothing(database: Database, store: DirectoryStore) -> None:
    left = _leave(store, 7200)
    assert verify(database, store).orphans == [left]
    with pytest.raises(InvalidInput, match="nothing is removed"):
        verify(database, store, remove_orphans=True)
    assert [*store.keys()] == [left]


def test_a_sample_reads_some_and_none(database: Database, store: DirectoryStore, keep: Keep) -> None:
    for n in range(20):
        keep(n)
    assert verify(database, store, sample=0).checked == 0
    assert verify(database, store, sample=1).checked == 20
    assert 0 < verify(database, store, sample=0.5).checked < 20


def test_pages_of_rows(database: Database, store: DirectoryStore, keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pacs.verify._PAGE_ROWS", 3)
    for n in range(7):
        keep(n)
    assert verify(database, store).checked == 7
