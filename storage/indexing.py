"""From durable objects to index rows: what ingest does in one transaction for a batch of instances.

An instance of a known series costs one statement (instance and job rows); the first of a series costs a larger one that
also makes patient, study, series, name words, worklist and audit rows. Both take the whole batch as one JSON value.

Locks are taken in one order everywhere (patients, studies, series, instances, jobs, worklist; by key within a table;
the sort nodes in the statements keep the levels apart), so that concurrent writers of the same study wait for each
other but never in a circle.

The audit log gets a row for each new study and each conflict, not for each instance: who sent an instance, from where
and when stands in its own row of `instances`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
import psycopg

from storage import names, set_aside
from storage.database import Connection, Database
from storage.indexing_sql import INDEX_KNOWN, INDEX_NEW
from storage.received import InstanceHeader, Outcome, Received

__all__ = ["Indexed", "Indexer", "index_instances"]

_CACHED_SERIES = 20_000
_ATTEMPTS = 20
_INDEXED_TEXT_MAX = 256  # characters; a B-tree entry holds 2,704 bytes, the VRs allow 64
_URGENCY = {"routine": 0, "urgent": 1, "stat": 2}

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

    def learn(self, places: dict[_SeriesKey, _SeriesPlace]) -> None:
        if len(self._places) + len(places) > _CACHED_SERIES:
            self._places.clear()
        self._places.update(places)

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
        Raises: `DatabaseUnavailable`; then nothing of the batch is indexed or all of it is, and a repeat is harmless.
        """
        first, repeats = _split_repeats(batch)
        with self._database.autocommit() as connection:
            stored = self._insert(connection, first)
            if not repeats and len(stored) == len(first):
                return [Indexed("stored", True)] * len(batch)
            left = [n for n in range(len(batch)) if batch[n].header.sop_uid not in stored or n in repeats]
            compared = dict(zip(left, _compare(connection, [batch[n] for n in left]), strict=True))
        return [compared.get(n, Indexed("stored", True)) for n in range(len(batch))]

    def _insert(self, connection: Connection, batch: list[Received]) -> set[str]:
        places = [self._places.get(received.header) for received in batch]
        if all(places):
            try:
                return _insert_known(connection, batch, [place for place in places if place])
            except psycopg.errors.ForeignKeyViolation:  # a study was deleted since
                self._places.forget(batch)
        stored, learnt = _insert_new(connection, batch)
        self._places.learn(learnt)
        return stored


def index_instances(connection: Connection, batch: Sequence[Received]) -> list[Outcome]:
    """Index a batch within the transaction of the caller; outcomes in order. `Indexer` is faster."""
    first, repeats = _split_repeats(batch)
    stored, _ = _insert_new(connection, first)
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


def _insert_known(connection: Connection, batch: list[Received], places: list[_SeriesPlace]) -> set[str]:
    rows = []
    for received, (study_pk, series_pk) in zip(batch, places, strict=True):
        row = _instance_row(received)
        row["study_fk"], row["series_fk"] = study_pk, series_pk
        rows.append(row)
    return {uid for (uid,) in connection.execute(INDEX_KNOWN, (_json(rows),), prepare=True)}


def _insert_new(connection: Connection, batch: list[Received]) -> tuple[set[str], dict[_SeriesKey, _SeriesPlace]]:
    """Insert with whatever is missing above. A row that another writer has just made is invisible to our statement and
    leaves our instance out; then we roll back (no half-made study stays) and find that row at the next attempt.
    """
    payload = _json([_full_row(n, received) for n, received in enumerate(batch)])
    for _ in range(_ATTEMPTS):
        stored: set[str] = set()
        places: dict[_SeriesKey, _SeriesPlace] = {}
        complete = True
        with connection.transaction() as transaction:
            for n, known, study_pk, series_pk in connection.execute(INDEX_NEW, (payload,), prepare=True):
                header = batch[n].header
                if series_pk is not None:
                    stored.add(header.sop_uid)
                    places[header.study_uid, header.series_uid] = study_pk, series_pk
                elif not known:
                    complete = False
            if not complete:
                raise psycopg.Rollback(transaction)
        if complete:
            return stored, places
    raise psycopg.OperationalError("Other writers kept changing the same studies.")


def _compare(connection: Connection, batch: Sequence[Received]) -> list[Indexed]:
    """Set received objects against the stored ones of the same UID."""
    uids = [received.header.sop_uid for received in batch]
    found = connection.execute("SELECT sop_uid, sha256 FROM instances WHERE sop_uid = ANY(%s)", (uids,))
    digests: dict[str, bytes] = dict(found.fetchall())
    return [
        Indexed("duplicate", False)
        if digests.get(received.header.sop_uid) == received.sha256
        else Indexed("conflict", set_aside.add_conflict(connection, received))
        for received in batch
    ]


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
        "not_eligible": received.not_eligible,
        "urgency": _URGENCY[received.priority],
        "latest_due_at": received.latest_due_at,
    }


def _full_row(n: int, received: Received) -> _Row:
    header = received.header
    patient_id, issuer = header.patient_id[:_INDEXED_TEXT_MAX], header.issuer[:_INDEXED_TEXT_MAX]
    return {
        "n": n,
        **_instance_row(received),
        # A backslash cannot occur in either part (PS3.5 6.2, LO).
        "patient_key": f"{issuer}\\{patient_id}" if patient_id else f"study:{header.study_uid}",
        "patient_id": patient_id,
        "issuer": issuer,
        "patient_name": header.patient_name,
        "patient_name_key": names.fold(header.patient_name)[:_INDEXED_TEXT_MAX],
        "name_words": names.words(header.patient_name),
        "patient_birth_date": header.patient_birth_date,
        "patient_sex": header.patient_sex,
        "patient_age": header.patient_age,
        "other_ids": header.other_patient_ids,
        "study_uid": header.study_uid,
        "study_date": header.study_date,
        "study_time": header.study_time,
        "accession_number": header.accession_number[:_INDEXED_TEXT_MAX],
        "study_id": header.study_id,
        "study_description": header.study_description,
        "referring_physician": header.referring_physician,
        "timezone_offset": header.timezone_offset,
        "site": received.site[:_INDEXED_TEXT_MAX],
        "requested_priority": received.priority,
        "series_uid": header.series_uid,
        "modality": header.modality[:_INDEXED_TEXT_MAX],
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
    return tuple(map(_clean, value)) if isinstance(value, tuple) else value
