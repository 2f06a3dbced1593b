"""Patients, studies, series and instances: what the index keeps, and how it is asked."""

from __future__ import annotations

# ruff: noqa: S608 - the statements are put together from constants only
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from psycopg.rows import class_row

from storage import search
from storage.attributes import BY_KEYWORD, Level
from storage.criteria import Condition, Dates, Match, Names, Query, Texts
from storage.database import Connection
from storage.errors import NotFound
from storage.indexing import Indexed, Indexer, index_instances
from storage.received import InstanceHeader, Outcome, Received

__all__ = [
    "Indexed", "Indexer", "Instance", "InstanceHeader", "Outcome", "Received", "Series", "Study", "find_studies",
    "index_instances", "instance", "instances_of", "series_of", "study",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One study as the index keeps it, with what was counted below it."""

    study_pk: int
    study_uid: str
    patient_id: str
    issuer: str
    patient_name: str  # alphabetic=ideographic=phonetic
    patient_birth_date: dt.date | None
    patient_sex: str
    patient_age: str
    study_date: dt.date | None
    study_time: str
    accession_number: str
    study_id: str
    description: str
    referring_physician: str
    institution_name: str
    timezone_offset: str
    site: str
    requested_priority: str
    created_at: dt.datetime
    modalities: list[str]
    series_count: int
    instance_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One series as the index keeps it."""

    series_pk: int
    series_uid: str
    modality: str
    series_number: int | None
    description: str
    body_part: str
    laterality: str
    protocol_name: str
    series_date: dt.date | None
    series_time: str
    pps_start_date: dt.date | None
    pps_start_time: str
    performing_physician: str
    station_name: str
    manufacturer: str
    manufacturer_model: str
    institution_name: str
    instance_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One instance as the index keeps it, with where its bytes are."""

    instance_pk: int
    sop_uid: str
    study_uid: str
    series_uid: str
    modality: str
    sop_class: str
    transfer_syntax: str
    instance_number: int | None
    rows: int | None
    columns: int | None
    bits_allocated: int | None
    frames: int | None
    photometric: str
    view_position: str
    image_type: str
    content_date: dt.date | None
    content_time: str
    acquisition_date: dt.date | None
    acquisition_time: str
    object_key: str
    object_size: int  # bytes of the whole Part 10 file
    dataset_offset: int
    sha256: bytes  # of the data set, that is of object[dataset_offset:]
    source_aet: str
    source_address: str
    received_at: dt.datetime
    triage: str  # waiting | scored | not_eligible | failed
    triage_reason: str


def _columns(record: type[Any], **computed: str) -> str:
    """The select list of a record: its fields, some of them from an expression or another table."""
    return ", ".join(f"{computed.get(field.name, field.name)} AS {field.name}" for field in fields(record))


_SERIES_COUNT = "(SELECT count(*) FROM instances WHERE series_fk = series_pk AND NOT instances.hidden)"
_STUDY = f"""
SELECT {_columns(Study, study_pk="s.study_pk", patient_id="s.patient_id", created_at="s.created_at")}
FROM found AS s
CROSS JOIN LATERAL (SELECT issuer FROM patients WHERE patient_pk = s.patient_fk OFFSET 0) AS p
CROSS JOIN LATERAL (
    SELECT count(*) AS series_count, coalesce(sum({_SERIES_COUNT}), 0)::bigint AS instance_count
    FROM series WHERE study_fk = s.study_pk AND NOT hidden
) AS e"""
_VISIBLE = "SELECT * FROM instances WHERE NOT hidden"
_SERIES = f"SELECT {_columns(Series, instance_count=_SERIES_COUNT)} FROM series"
_INSTANCE = f"""
SELECT {_columns(Instance, study_uid="s.study_uid", series_uid="e.series_uid", modality="e.modality")}
FROM found AS i
CROSS JOIN LATERAL (SELECT series_uid, modality FROM series WHERE series_pk = i.series_fk OFFSET 0) AS e
CROSS JOIN LATERAL (SELECT study_uid FROM studies WHERE study_pk = i.study_fk OFFSET 0) AS s"""
_LATEST_FIRST = "ORDER BY s.study_date DESC NULLS LAST, s.study_pk DESC"


def find_studies(
    connection: Connection,
    *,
    patient_id: str | None = None,
    accession: str | None = None,
    study_uids: Sequence[str] | None = None,
    date_from: dt.date | None = None,
    date_to: dt.date | None = None,
    name: str | None = None,
    modality: str | None = None,
    limit: int = 100,
) -> list[Study]:
    """Studies that match all that is given, the latest first (those without a date last); at most `limit`.

    Dates are both included; each word of `name` matches the beginning of a word of the patient's name, without regard
    to marks, case and order.
    """
    given: dict[str, Match | None] = {
        "PatientID": None if patient_id is None else Texts((patient_id,)),
        "AccessionNumber": None if accession is None else Texts((accession,)),
        "StudyInstanceUID": None if study_uids is None else Texts(tuple(study_uids)),
        "ModalitiesInStudy": None if modality is None else Texts((modality,)),
        "PatientName": Names((name,), fuzzy=True) if name else None,
        "StudyDate": Dates(date_from, date_to) if date_from or date_to else None,
    }
    conditions = [Condition(BY_KEYWORD[key], match) for key, match in given.items() if match is not None]
    keys = search.keys(connection, Query(Level.STUDY, tuple(conditions)), limit=limit)
    found = (
        "SELECT s.* FROM unnest(%(keys)s::bigint[]) AS pk"
        " CROSS JOIN LATERAL (SELECT * FROM studies WHERE study_pk = pk AND NOT hidden OFFSET 0) AS s"
    )
    sql = f"WITH found AS MATERIALIZED ({found}) {_STUDY} {_LATEST_FIRST}"
    with connection.cursor(row_factory=class_row(Study)) as cursor:
        return cursor.execute(sql.encode(), {"keys": keys}, prepare=False).fetchall()


def study(connection: Connection, study_uid: str) -> Study:
    """One study; raises `NotFound`."""
    found = find_studies(connection, study_uids=[study_uid], limit=1)
    if not found:
        raise NotFound(f"There is no study {study_uid}.")
    return found[0]


def series_of(connection: Connection, study_uid: str) -> list[Series]:
    """The series of a study by series number; empty for an unknown study."""
    with connection.cursor(row_factory=class_row(Series)) as cursor:
        return cursor.execute(
            f"{_SERIES} WHERE study_fk = (SELECT study_pk FROM studies WHERE study_uid = %s) AND NOT hidden"
            " ORDER BY series_number NULLS LAST, series_pk".encode(),
            (study_uid,),
        ).fetchall()


def instances_of(connection: Connection, study_uid: str, series_uid: str | None = None) -> list[Instance]:
    """The instances of a study, or of one series of it, by series and instance number; empty for an unknown study."""
    found = (
        f"{_VISIBLE} AND series_fk = ANY(ARRAY(SELECT series_pk FROM series WHERE"
        " study_fk = (SELECT study_pk FROM studies WHERE study_uid = %(study)s)"
        " AND (%(series)s::text IS NULL OR series_uid = %(series)s)))"
    )
    with connection.cursor(row_factory=class_row(Instance)) as cursor:
        return cursor.execute(
            f"WITH found AS MATERIALIZED ({found}) {_INSTANCE}"
            " ORDER BY i.series_fk, i.instance_number NULLS LAST, i.instance_pk".encode(),
            {"study": study_uid, "series": series_uid},
        ).fetchall()


def instance(connection: Connection, sop_uid: str) -> Instance:
    """One instance; raises `NotFound`."""
    with connection.cursor(row_factory=class_row(Instance)) as cursor:
        found = cursor.execute(
            f"WITH found AS MATERIALIZED ({_VISIBLE} AND sop_uid = %s) {_INSTANCE}".encode(), (sop_uid,)
        ).fetchone()
    if found is None:
        raise NotFound(f"There is no instance {sop_uid}.")
    return found
