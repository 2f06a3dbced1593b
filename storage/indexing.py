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
from typing import Any, NamedTuple

import orjson
import psycopg
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from storage import arrivals, names, removal, set_aside
from storage.database import Connection, Database
from storage.received import InstanceHeader, Outcome, Received

__all__ = ["Indexed", "Indexer", "index_instances"]

_CACHED_SERIES = 20_000
_ATTEMPTS = 20
_INDEXED_TEXT_MAX = 256  # characters
_INSERT = "SELECT * FROM index_instances(%s, %s, %s, %s, %s)"
_STATEMENT = b"index_instances"
_RAW_INSERT = b"SELECT * FROM index_instances($1, $2, $3, $4, $5)"
_URGENCY = {"routine": 0, "urgent": 1, "stat": 2}

_prepared: weakref.WeakSet[Connection] = weakref.WeakSet()  # connections that know `_STATEMENT`

_SeriesKey = tuple[str, str]
_SeriesPlace = tuple[int, int]
_Row = dict[str, Any]


class Indexed(NamedTuple):
    """What became of one received object."""

    outcome: Outcome
    keep_object: bool  # False when no row names its key: the caller deletes the object


class _Places:
    """Known series: (study UID, series UID) to (study_pk, series_pk). Holds only what was committed."""

    def __init__(self) -> None:
        self._places: dict[_SeriesKey, _SeriesPlace] = {}

    def get(self, header: InstanceHeader) -> _SeriesPlace | None:
        return self._places.get((header.study_uid, header.series_uid))

    def learn(self, batch: Sequence[Received], stored: dict[str, _SeriesPlace]) -> None:
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

    def _insert(self, connection: Connection, batch: list[Received]) -> dict[str, _SeriesPlace]:
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
    connection: Connection, batch: list[Received], places: Sequence[_SeriesPlace | None]
) -> dict[str, _SeriesPlace]:
    """Insert what is new, with whatever is missing above it; the places of what was inserted, by SOP instance UID."""
    values = _arrays(batch, places)
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


def _insert_missing(connection: Connection, batch: list[Received]) -> dict[str, _SeriesPlace]:
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


def _arrays(batch: list[Received], places: Sequence[_SeriesPlace | None]) -> list[str | None]:
    """The arguments of the function `index_instances`: each array in the order of its key, without repeats."""
    instances = []
    for received, place in sorted(zip(batch, places, strict=True), key=lambda pair: pair[0].header.sop_uid):
        row = _instance_row(received)
        if place is None:
            row["study_uid"], row["series_uid"] = received.header.study_uid, received.header.series_uid
        else:
            row["study_fk"], row["series_fk"] = place
        instances.append(row)
    arrivals = _arrivals(batch, places)
    if None not in places:
        return [None, None, None, _json(instances), _json(arrivals)]
    patients: dict[str, _Row] = {}
    studies: dict[str, _Row] = {}
    series: dict[_SeriesKey, _Row] = {}
    for received in batch:
        header = received.header
        if header.study_uid not in studies:
            studies[header.study_uid] = study = _study_row(received)
            patient = patients.setdefault(study["patient_key"], _patient_row(study, header))
            patient["study_uids"].append(header.study_uid)
        series.setdefault((header.series_uid, header.study_uid), _series_row(header))
    for arrival in arrivals:
        studies[arrival["study_uid"]].update(arrival)
    levels = [[rows[key] for key in sorted(rows)] for rows in (patients, studies)]
    levels.append([series[key] for key in sorted(series)])
    return [_json(rows) for rows in (*levels, instances, arrivals)]


def _arrivals(batch: list[Received], places: Sequence[_SeriesPlace | None]) -> list[_Row]:
    """What the instances of a batch bring to the worklist rows of their studies, in the order of the studies' UIDs."""
    arrivals: dict[str, _Row] = {}
    for received, place in zip(batch, places, strict=True):
        eligible, urgency = not received.not_eligible, _URGENCY[received.priority]
        known = arrivals.get(received.header.study_uid)
        if known is None:
            arrivals[received.header.study_uid] = {
                "study_fk": place and place[0],
                "study_uid": received.header.study_uid,
                "received_at": received.received_at,
                "latest_due_at": received.latest_due_at,
                "urgency": urgency,
                "eligible": eligible,
                "not_eligible": received.not_eligible,
                "modalities": _modalities(received),
                "quiet": received.quiet,
            }
            continue
        known["received_at"] = min(known["received_at"], received.received_at)
        known["latest_due_at"] = min(known["latest_due_at"], received.latest_due_at)
        known["urgency"] = max(known["urgency"], urgency)
        known["modalities"] = sorted({*known["modalities"], *_modalities(received)})
        known["quiet"] = known["quiet"] and received.quiet
        if eligible:
            known["eligible"], known["not_eligible"] = True, ""
    return [arrivals[key] for key in sorted(arrivals)]


def _modalities(received: Received) -> list[str]:
    modality = _indexable(received.header.modality)
    return [modality] if modality else []


def _instance_row(received: Received) -> _Row:
    header = received.header
    return {
        "sop_uid": header.sop_uid,
        "sop_class": header.sop_class,
        "transfer_syntax": header.transfer_syntax,
        "instance_number": _integer(header.instance_number),
        "rows": _integer(header.rows),
        "columns": _integer(header.columns),
        "bits_allocated": _integer(header.bits_allocated),
        "frames": _integer(header.frames),
        "photometric": header.photometric,
        "view_position": header.view_position,
        "image_type": header.image_type,
        "content_date": header.content_date,
        "content_time": header.content_time,
        "acquisition_date": header.acquisition_date,
        "acquisition_time": header.acquisition_time,
        "object_key": received.object_key,
        "object_size": received.object_size,
        "dataset_offset": received.dataset_offset,
        "sha256": received.sha256.hex(),
        "source_aet": received.source_aet,
        "source_address": received.source_address,
        "received_at": received.received_at,
        "urgency": _URGENCY[received.priority],
        "not_eligible": received.not_eligible,
    }


def _study_row(received: Received) -> _Row:
    header = received.header
    patient_id, issuer = _indexable(header.patient_id), _indexable(header.issuer)
    words = names.words(header.patient_name)
    return {
        "study_uid": header.study_uid,
        # A backslash cannot occur in either part (PS3.5 6.2, LO).
        "patient_key": f"{issuer}\\{patient_id}" if patient_id else f"study:{header.study_uid}",
        "patient_id": patient_id,
        "patient_name": header.patient_name,
        "patient_name_key": " ".join(words),
        "name_words": words,
        "patient_birth_date": header.patient_birth_date,
        "patient_sex": header.patient_sex,
        "patient_age": header.patient_age,
        "study_date": header.study_date,
        "study_time": header.study_time,
        "accession_number": _indexable(header.accession_number),
        "study_id": header.study_id,
        "study_description": header.study_description,
        "referring_physician": header.referring_physician,
        "institution_name": header.institution_name,
        "timezone_offset": header.timezone_offset,
        "site": _indexable(received.site),
        "source_aet": received.source_aet,
        "source_address": received.source_address,
    }


def _patient_row(study: _Row, header: InstanceHeader) -> _Row:
    return {
        "patient_key": study["patient_key"],
        "patient_id": study["patient_id"],
        "issuer": _indexable(header.issuer),
        "patient_name": header.patient_name,
        "patient_birth_date": header.patient_birth_date,
        "patient_sex": header.patient_sex,
        "other_ids": header.other_patient_ids,
        "study_uids": [],
    }


def _series_row(header: InstanceHeader) -> _Row:
    return {
        "study_uid": header.study_uid,
        "series_uid": header.series_uid,
        "modality": _indexable(header.modality),
        "series_number": _integer(header.series_number),
        "series_description": header.series_description,
        "body_part": header.body_part,
        "laterality": header.laterality,
        "protocol_name": header.protocol_name,
        "series_date": header.series_date,
        "series_time": header.series_time,
        "pps_start_date": header.pps_start_date,
        "pps_start_time": header.pps_start_time,
        "performing_physician": header.performing_physician,
        "station_name": header.station_name,
        "manufacturer": header.manufacturer,
        "manufacturer_model": header.manufacturer_model,
        "institution_name": header.institution_name,
    }


def _indexable(text: str) -> str:
    """A B-tree entry holds 2,704 bytes; the VRs of what is indexed allow 64 characters at most."""
    return text[:_INDEXED_TEXT_MAX]


def _integer(value: int | None) -> int | None:
    """A number that the column can hold: senders write anything into IS."""
    return value if value is None or -(2**31) <= value < 2**31 else None


def _json(rows: list[_Row]) -> str:
    """The rows as JSON without what PostgreSQL's text cannot hold: NUL and lone surrogates."""
    try:
        text = orjson.dumps(rows, default=str)
    except TypeError:  # a lone surrogate
        text = b"\\u0000"
    if b"\\u0000" in text:
        rows = [{key: _clean(value) for key, value in row.items()} for row in rows]
        text = orjson.dumps(rows, default=str)
    return text.decode()


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return str(value).replace("\0", "").encode(errors="replace").decode()
    return [_clean(each) for each in value] if isinstance(value, (list, tuple)) else value
