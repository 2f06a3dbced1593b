"""From durable objects to index rows: what ingest does in one transaction for a batch of instances.

The function `index_instances` of the schema (`0002_pre.sql`) does it in one round trip for the whole batch:
instances and jobs alone for known series, with all that is missing above them for others.

The audit log gets a row for each new study and each conflict, not for each instance: who sent an instance, from where
and when stands in its own row of `instances`.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import psycopg
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from storage import arrivals, removal, set_aside
from storage.database import Connection, Database
from storage.indexrows import SeriesPlace, arrays
from storage.received import InstanceHeader, Outcome, Received

__all__ = ["Indexed", "Indexer", "index_instances"]

_CACHED_SERIES = 20_000
_ATTEMPTS = 20
_INSERT = "SELECT * FROM index_instances(%s, %s, %s, %s, %s)"
_STATEMENT = b"index_instances"
_RAW_INSERT = b"SELECT * FROM index_instances($1, $2, $3, $4, $5)"

_prepared: weakref.WeakSet[Connection] = weakref.WeakSet()  # connections that know `_STATEMENT`

_SeriesKey = tuple[str, str]


class Indexed(NamedTuple):
    """What became of one received object."""

    outcome: Outcome
    keep_object: bool  # False when no row names its key: the caller deletes the object


class _Places:
    """Known series: (study UID, series UID) to (study_pk, series_pk). Holds only what was committed."""

    def __init__(self) -> None:
        self._places: dict[_SeriesKey, SeriesPlace] = {}

    def get(self, header: InstanceHeader) -> SeriesPlace | None:
        return self._places.get((header.study_uid, header.series_uid))

    def learn(self, batch: Sequence[Received], stored: dict[str, SeriesPlace]) -> None:
        if len(self._places) > _CACHED_SERIES:
            self._places.clear()
        for received in batch:
            header = received.header
            if header.sop_uid in stored:
                self._places[header.study_uid, header.series_uid] = stored[header.sop_uid]

    def forget(self, batch: Sequence[Received]) -> None:
        for received in batch:
            self._places.pop((received.header.study_uid, received.header.series_uid), None)


class Indexer:
    """Writes batches, each in a transaction of its own, and remembers the series it has seen. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._places = _Places()

    def index(self, batch: Sequence[Received]) -> list[Indexed]:
        """Index the batch; when this returns it is committed.

        Returns: one `Indexed` for each element, in order. Of two elements with the same UID the first one is stored.
        Raises: `DatabaseUnavailable`; then it is not known whether the batch is indexed (the connection may have broken
            behind the commit), so the objects must stay. The same batch again gives the outcomes of the first time.
        """
        first, repeats = _split_repeats(batch)
        with self._database.autocommit() as connection:
            stored = self._insert(connection, first)
            if not repeats and len(stored) == len(first):
                return [Indexed("stored", True)] * len(batch)
            left = [n for n in range(len(batch)) if batch[n].header.sop_uid not in stored or n in repeats]
            compared = dict(zip(left, _compare(connection, [batch[n] for n in left]), strict=True))
        return [compared.get(n, Indexed("stored", True)) for n in range(len(batch))]

    def _insert(self, connection: Connection, batch: list[Received]) -> dict[str, SeriesPlace]:
        places = [self._places.get(received.header) for received in batch]
        try:
            if None not in places:
                with contextlib.suppress(psycopg.errors.ForeignKeyViolation):  # a series was moved or deleted since
                    return _insert(connection, batch, places)
                self._places.forget(batch)
            stored = _insert_missing(connection, batch)
        except psycopg.errors.ObjectNotInPrerequisiteState:
            self._places.forget(batch)
            stored = arrivals.index_alone(connection, batch, _insert_missing)
        self._places.learn(batch, stored)
        return stored


def index_instances(connection: Connection, batch: Sequence[Received]) -> list[Outcome]:
    """Index a batch within the transaction of the caller; outcomes in order. `Indexer` is faster."""
    first, repeats = _split_repeats(batch)
    try:
        stored = _insert_missing(connection, first)
    except psycopg.errors.ObjectNotInPrerequisiteState:
        stored = arrivals.index_alone(connection, first, _insert_missing)
    outcomes: list[Outcome] = []
    for n, received in enumerate(batch):
        if received.header.sop_uid in stored and n not in repeats:
            outcomes.append("stored")
        else:
            outcomes += [indexed.outcome for indexed in _compare(connection, [received])]
    return outcomes


def _split_repeats(batch: Sequence[Received]) -> tuple[list[Received], set[int]]:
    """The first element of each SOP instance, and the positions of the others."""
    first: dict[str, Received] = {}
    repeats = set()
    for n, received in enumerate(batch):
        if received.header.sop_uid in first:
            repeats.add(n)
        else:
            first[received.header.sop_uid] = received
    return list(first.values()), repeats


def _insert(
    connection: Connection, batch: list[Received], places: Sequence[SeriesPlace | None]
) -> dict[str, SeriesPlace]:
    """Insert what is new, with whatever is missing above it; the places of what was inserted, by SOP instance UID."""
    values = arrays(batch, places)
    if _in_transaction(connection):
        with connection.transaction():
            stored = connection.execute(_INSERT, values).fetchall()
    else:
        stored = _call(connection, values)
    return {sop_uid: (study_pk, series_pk) for sop_uid, study_pk, series_pk in stored}


def _call(connection: Connection, values: Sequence[str | None]) -> list[tuple[str, int, int]]:
    """The function by libpq's own call, which waits without the GIL.

    psycopg's cursors send with the GIL held; on two cores the server that this wakes often runs in our place, and then
    all threads of this process stand still.
    """
    server = connection.pgconn
    arguments = [None if value is None else value.encode() for value in values]
    if connection not in _prepared:
        _prepare(connection)
    try:
        result = _execute(server, arguments)
    except psycopg.errors.InvalidSqlStatementName:  # psycopg deallocates all statements after a rollback
        _prepare(connection)
        result = _execute(server, arguments)
    rows = [[result.get_value(row, column) or b"" for column in range(3)] for row in range(result.ntuples)]
    return [(sop_uid.decode(), int(study_pk), int(series_pk)) for sop_uid, study_pk, series_pk in rows]


def _prepare(connection: Connection) -> None:
    _check(connection.pgconn, connection.pgconn.prepare(_STATEMENT, _RAW_INSERT))
    _prepared.add(connection)


def _execute(server: PGconn, arguments: Sequence[bytes | None]) -> PGresult:
    result = server.exec_prepared(_STATEMENT, arguments)  # type: ignore[arg-type]  # None is NULL, the stub forgets
    _check(server, result)
    return result


def _check(server: PGconn, result: PGresult) -> None:
    if result.status in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
        return
    if server.status != ConnStatus.OK:
        raise psycopg.OperationalError(result.get_error_message())
    raise psycopg.errors.error_from_result(result)


def _insert_missing(connection: Connection, batch: list[Received]) -> dict[str, SeriesPlace]:
    """As `_insert`, when the series are not known to the cache.

    The function refuses to make a study or series that would stay empty because its instance is known elsewhere; then
    what is known is left out.
    """
    for _ in range(_ATTEMPTS):
        try:
            return _insert(connection, batch, [None] * len(batch)) if batch else {}
        except psycopg.errors.SerializationFailure:
            known = _known(connection, batch)
            batch = [received for received in batch if received.header.sop_uid not in known]
    raise psycopg.OperationalError("Other writers kept sending the same instances.")


def _in_transaction(connection: Connection) -> bool:
    return connection.info.transaction_status == TransactionStatus.INTRANS


def _known(connection: Connection, batch: Sequence[Received]) -> dict[str, tuple[bytes, str, bool]]:
    """Digest, object key and hidden flag of the stored instances among the batch."""
    uids = [received.header.sop_uid for received in batch]
    found = connection.execute(
        "SELECT sop_uid, sha256, object_key, hidden FROM instances WHERE sop_uid = ANY(%s)", (uids,)
    )
    return {uid: (sha256, key, hidden) for uid, sha256, key, hidden in found}


def _compare(connection: Connection, batch: Sequence[Received]) -> list[Indexed]:
    """Set received objects against the stored ones of the same UID."""
    known = _known(connection, batch)
    compared = []
    for received in batch:
        sha256, key, hidden = known.get(received.header.sop_uid, (b"", "", False))
        if key == received.object_key:  # this very object: the batch is tried again after an answer was lost
            compared.append(Indexed("stored", True))
        elif sha256 == received.sha256:
            if hidden:
                with connection.transaction():
                    removal.resent(connection, [received.header.sop_uid], received.source_aet)
            compared.append(Indexed("duplicate", False))
        else:
            compared.append(Indexed("conflict", set_aside.add_conflict(connection, received)))
    return compared
