"""Does the archive still hold what it acknowledged: every object against its digest, and both directions of the index.

Three questions: is each object that a row names there, with the size and the SHA-256 of the row; and is each object
named by a row. Objects that are kept aside count as named. Nothing is changed unless the removal of left-overs is
asked for.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from storage.database import Connection, Database
from storage.errors import InvalidInput, NotFound
from storage.objects import ObjectStore

__all__ = ["Damage", "VerifyReport", "verify"]

log = structlog.get_logger()

_CHUNK_BYTES = 1 << 20
_PAGE_ROWS = 1_000
_LISTED = 1_000  # problems named in a report; the counters go on
_SETTLE_S = 60  # from the durable object to the committed row it is some milliseconds, unless everything hangs
_IN_FLIGHT_S = 3600  # an object without a row that is younger may be on its way in

# In pages by key; the first column is that key.
_OBJECTS = (
    """
    SELECT instance_pk, object_key, object_size, dataset_offset, sha256, sop_uid
    FROM instances WHERE instance_pk > %s ORDER BY instance_pk LIMIT %s""",
    """
    SELECT set_aside_pk, object_key, object_size, dataset_offset, sha256, sop_uid
    FROM set_aside WHERE set_aside_pk > %s ORDER BY set_aside_pk LIMIT %s""",
    """
    SELECT model_pk, object_key, object_size, 0, sha256, name || '@' || version
    FROM model_versions WHERE model_pk > %s ORDER BY model_pk LIMIT %s""",
)
_UNNAMED = """
    SELECT object_key FROM found
    EXCEPT SELECT object_key FROM instances
    EXCEPT SELECT object_key FROM set_aside
    EXCEPT SELECT object_key FROM series_metadata
    EXCEPT SELECT object_key FROM model_versions
    EXCEPT SELECT map_key FROM scores
    ORDER BY object_key"""


class _Row(NamedTuple):
    pk: int
    object_key: str
    object_size: int
    dataset_offset: int
    sha256: bytes
    sop_uid: str


class Damage(NamedTuple):
    """One object that is not what its row says."""

    sop_uid: str
    object_key: str
    problem: str


@dataclass(slots=True)
class VerifyReport:
    """What was read and what was found; at most a thousand of each kind are named."""

    checked: int = 0  # objects read
    bytes: int = 0
    damaged: list[Damage] = field(default_factory=list)  # missing, of another size or with another digest
    damaged_count: int = 0
    orphans: list[str] = field(default_factory=list)  # keys of objects that no row names
    orphan_count: int = 0
    removed: int = 0  # of the orphans

    @property
    def sound(self) -> bool:
        """Whether every row has its object; orphans are only left-overs."""
        return self.damaged_count == 0


def verify(
    database: Database,
    store: ObjectStore,
    *,
    progress: Callable[[VerifyReport, int], None] = lambda _report, _total: None,
    sample: float | None = None,
    remove_orphans: bool = False,
    in_flight_s: float = _IN_FLIGHT_S,
    threads: int = 4,
) -> VerifyReport:
    """Read the objects that rows name and compare; then list the objects that no row names.

    Args:
        database: the index.
        store: the objects.
        progress: called now and then with the report so far and the number of rows.
        sample: the share of objects to read, 0 to 1; all without it.
        remove_orphans: delete objects that no row names.
        in_flight_s: objects younger than this many seconds are no orphans; where the store knows no age, an orphan is
            what no row named at the beginning and at the end.
        threads: objects read at the same time.

    Raises:
        InvalidInput: orphans are to be removed and the index names no object at all: the wrong database, most likely.
        Unavailable: object store or database is away.
    """
    report = VerifyReport()
    with database.transaction() as connection:
        (total,) = _one(connection, "SELECT (SELECT count(*) FROM instances) + (SELECT count(*) FROM set_aside)")
    if remove_orphans and not total:
        raise InvalidInput("The index names no object at all: nothing is removed")
    with database.connect() as connection, ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
        listed_at = time.monotonic()
        _note_objects(connection, store)
        for rows in _pages(database):
            chosen = [row for row in rows if sample is None or random.random() < sample]  # noqa: S311 - no secret
            for row, (size, problem) in zip(chosen, pool.map(lambda row: _check(store, row), chosen), strict=True):
                report.checked += 1
                report.bytes += size
                if problem:
                    _note_damage(report, row, problem)
            progress(report, total)
        for key in _find_orphans(connection, store, listed_at, in_flight_s):
            report.orphan_count += 1
            if len(report.orphans) < _LISTED:
                report.orphans.append(key)
            if remove_orphans:
                store.delete(key)
                report.removed += 1
    return report


def _one(connection: Connection, query: str) -> tuple[int, ...]:
    found = connection.execute(query).fetchone()
    assert found is not None
    return found


def _pages(database: Database) -> Iterator[list[_Row]]:
    for query in _OBJECTS:
        last = 0
        while True:
            with database.transaction() as connection:
                rows = [_Row(*row) for row in connection.execute(query, (last, _PAGE_ROWS))]
            if not rows:
                break
            last = rows[-1].pk
            yield rows


def _check(store: ObjectStore, row: _Row) -> tuple[int, str]:
    """Bytes read, and what is wrong with the object ('' when nothing is)."""
    digest, size = hashlib.sha256(), 0
    try:
        with store.open(row.object_key) as file:
            size = len(file.read(row.dataset_offset))
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
    except NotFound:
        return 0, "missing"
    except OSError as error:
        return size, f"cannot be read: {error.strerror}"
    if size != row.object_size:
        return size, f"{size} bytes instead of {row.object_size}"
    if digest.digest() != row.sha256:
        return size, "other bytes than were acknowledged"
    return size, ""


def _note_damage(report: VerifyReport, row: _Row, problem: str) -> None:
    report.damaged_count += 1
    if len(report.damaged) < _LISTED:
        report.damaged.append(Damage(row.sop_uid, row.object_key, problem))
    log.error("object is damaged", sop_uid=row.sop_uid, object_key=row.object_key, problem=problem)


def _note_objects(connection: Connection, store: ObjectStore) -> None:
    """Write the keys of all objects to a temporary table, so that PostgreSQL compares them however many they are."""
    connection.execute(
        "SET enable_seqscan = on; SET statement_timeout = 0"
    )  # our own connection: long and whole tables
    connection.execute('CREATE TEMP TABLE found (object_key text COLLATE "C" NOT NULL)')
    with connection.cursor() as cursor, cursor.copy("COPY found FROM STDIN") as copy:
        for key in store.keys():  # noqa: SIM118 - a store is no mapping
            copy.write_row((key,))


def _find_orphans(connection: Connection, store: ObjectStore, listed_at: float, in_flight_s: float) -> Iterator[str]:
    """Keys of objects that were there when they were listed, that no row names now and that nobody is writing."""
    unnamed = connection.execute(_UNNAMED).fetchall()
    if unnamed and store.path(unnamed[0][0]) is None:  # no age to be had: ask again when their rows must be there
        time.sleep(max(0.0, min(in_flight_s, _SETTLE_S) - (time.monotonic() - listed_at)))
        unnamed = connection.execute(_UNNAMED).fetchall()
    for (key,) in unnamed:
        if _age_s(store, key) >= in_flight_s:
            yield key


def _age_s(store: ObjectStore, key: str) -> float:
    """Seconds since the object was written; without end where the store does not say."""
    path = store.path(key)
    if path is None:
        return math.inf
    try:
        return time.time() - os.stat(path).st_mtime  # noqa: PTH116 - a string, and many of them
    except FileNotFoundError:
        return -math.inf  # dropped by its writer meanwhile
