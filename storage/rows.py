"""Rows of patients, studies and series as JSON, written back with other values; and what follows from them.

A row is a dict of its columns as PostgreSQL's `to_jsonb` gives them (dates in ISO form); a study has `patient_key` in
place of its foreign key. So the same dict is the history of a change and what undoes it.
"""

from __future__ import annotations

# ruff: noqa: S608 - the statements are put together from constants only
from collections.abc import Mapping, Sequence
from typing import Any

from psycopg.types.json import Jsonb

from storage import names
from storage.corrections import ORIGINAL, PATIENT, SERIES_UID, STUDY, STUDY_UID, Json, identity
from storage.database import Connection
from storage.errors import Conflict, NotFound

__all__ = [
    "Row", "derive", "difference", "patient", "series_row", "studies_by", "study", "write_patient", "write_series",
    "write_study",
]  # fmt: skip

Row = dict[str, Any]

_STUDY_COLUMNS = (
    "patient_id", "patient_name", "patient_name_key", "patient_birth_date", "patient_sex", "patient_age", "study_date",
    "study_time", "accession_number", "study_id", "description", "referring_physician", "corrections", "as_sent",
)  # fmt: skip
_SERIES_COLUMNS = (
    "series_uid", "modality", "series_number", "description", "body_part", "laterality", "protocol_name", "series_date",
    "series_time", "performing_physician", "station_name", "institution_name", "home_study_uid", "home_series_uid",
    "edits", "moved_to",
)  # fmt: skip
_PATIENT_COLUMNS = ("patient_key", "patient_id", "issuer", "name", "birth_date", "sex", "other_ids")
_NOT_OF_ALL = {"PatientAge"}  # of the objects, not of the person or the request: a moved one keeps its own


def studies_by(connection: Connection, condition: str, value: Any) -> list[Row]:
    """Studies as rows, by study UID; `condition` is SQL on `s` with one `%s`."""
    return _read(
        connection,
        "SELECT to_jsonb(s) || jsonb_build_object('patient_key', p.patient_key, 'issuer', p.issuer) FROM studies AS s"
        f" JOIN patients AS p ON p.patient_pk = s.patient_fk WHERE {condition} ORDER BY s.study_uid",
        (value,),
        ("study_pk", "study_uid", "patient_key", "issuer", "hidden", "moved_to", *_STUDY_COLUMNS),
    )


def study(connection: Connection, study_uid: str) -> Row:
    """One study that is visible or hidden, but not merged into another; raises `NotFound`."""
    found = studies_by(connection, "s.study_uid = %s AND s.moved_to IS NULL", study_uid)
    if not found:
        raise NotFound(f"There is no study {study_uid}.")
    return found[0]


def series_row(connection: Connection, study_pk: int, series_uid: str | None = None) -> list[Row]:
    """The series of a study that hold instances, or one of them."""
    return _read(
        connection,
        "SELECT to_jsonb(e) FROM series AS e WHERE study_fk = %s AND moved_to IS NULL"
        " AND (%s::text IS NULL OR series_uid = %s) ORDER BY series_uid",
        (study_pk, series_uid, series_uid),
        ("series_pk", *_SERIES_COLUMNS),
    )


def patient(connection: Connection, patient_key: str) -> Row | None:
    """One patient with the keys of its row and of whom it was merged into."""
    found = _read(
        connection,
        "SELECT to_jsonb(p) FROM patients AS p WHERE patient_key = %s",
        (patient_key,),
        ("patient_pk", "merged_into", *_PATIENT_COLUMNS),
    )
    return found[0] if found else None


def _read(connection: Connection, sql: str, values: Sequence[Any], columns: Sequence[str]) -> list[Row]:
    found = connection.execute(sql.encode(), values).fetchall()
    return [{column: row[column] for column in columns if column in row} for (row,) in found]


def write_study(connection: Connection, study_pk: int, values: Mapping[str, Any]) -> None:
    """Set columns of a study, its patient by `patient_key`; the words of its name follow. Raises `Conflict`."""
    given = dict(values)
    if "patient_name" in given:
        given["patient_name_key"] = " ".join(names.words(given["patient_name"]))
    columns = ", ".join(f"{column} = r.{column}" for column in _STUDY_COLUMNS if column in given)
    if columns:
        _update(connection, ("studies", "study_pk", study_pk), columns, given)
    if "patient_key" in given:
        moved = connection.execute(
            "UPDATE studies SET patient_fk = patient_pk FROM patients WHERE study_pk = %s AND patient_key = %s",
            (study_pk, given["patient_key"]),
        )
        if not moved.rowcount:
            raise Conflict("The patient to whom the study would belong is not known any more.")
    if "patient_name" in given:
        connection.execute("DELETE FROM name_words WHERE study_fk = %s", (study_pk,))
        connection.execute(
            "INSERT INTO name_words (word, study_fk, words, study_date)"
            " SELECT unnest(%s::text[]), study_pk, patient_name_key, study_date FROM studies WHERE study_pk = %s",
            (list(names.words(given["patient_name"])), study_pk),
        )


def write_series(connection: Connection, series_pk: int, values: Mapping[str, Any]) -> None:
    """Set columns of a series."""
    columns = ", ".join(f"{column} = r.{column}" for column in _SERIES_COLUMNS if column in values)
    _update(connection, ("series", "series_pk", series_pk), columns, values)


def write_patient(connection: Connection, values: Mapping[str, Any]) -> None:
    """Make a patient, or set the columns of the one with this key."""
    connection.execute(
        "INSERT INTO patients (patient_key, patient_id, issuer, name, birth_date, sex, other_ids)"
        " SELECT patient_key, patient_id, issuer, name, birth_date, sex, coalesce(other_ids, '{}')"
        " FROM jsonb_populate_record(NULL::patients, %s) ON CONFLICT (patient_key) DO UPDATE SET"
        " name = excluded.name, birth_date = excluded.birth_date, sex = excluded.sex, other_ids = excluded.other_ids",
        (Jsonb(dict(values)),),
    )


def _update(connection: Connection, row: tuple[str, str, int], columns: str, values: Mapping[str, Any]) -> None:
    table, key, pk = row
    connection.execute(
        f"UPDATE {table} AS t SET {columns} FROM {table} AS o CROSS JOIN LATERAL jsonb_populate_record(o, %s) AS r"
        f" WHERE o.{key} = %s AND t.{key} = o.{key}".encode(),
        (Jsonb(dict(values)), pk),
    )


def difference(before: Row, after: Row) -> tuple[Row, Row]:
    """The columns that differ, with their values on both sides."""
    columns = [column for column in after if before.get(column) != after[column]]
    return {column: before.get(column) for column in columns}, {column: after[column] for column in columns}


def derive(connection: Connection, study_pks: Sequence[int]) -> None:
    """Write `corrections` of series anew: their own edits, and for those that moved all that their study says."""
    for above in studies_by(connection, "s.study_pk = ANY(%s)", list(study_pks)):
        for below in series_row(connection, above["study_pk"]):
            connection.execute(
                "UPDATE series SET corrections = %(new)s"
                " WHERE series_pk = %(pk)s AND corrections IS DISTINCT FROM %(new)s::jsonb",
                {"new": _jsonb(_corrections(above, below)), "pk": below["series_pk"]},
            )


def _jsonb(value: Json | None) -> Jsonb | None:
    return None if value is None else Jsonb(value)


def _corrections(above: Row, below: Row) -> Json | None:
    edits: Json = dict(below["edits"] or {})
    general: Json = dict(above["corrections"] or {})
    originals = [item for part in (general, edits) for item in part.pop(ORIGINAL, {}).get("Value", [])]
    result = edits
    if below["home_study_uid"] is not None:
        people = {key: attribute for key, attribute in (PATIENT | STUDY).items() if key not in _NOT_OF_ALL}
        result = identity(above, people) | general | edits | {STUDY_UID: {"vr": "UI", "Value": [above["study_uid"]]}}
        if below["home_series_uid"] != below["series_uid"]:
            result[SERIES_UID] = {"vr": "UI", "Value": [below["series_uid"]]}
    if not result:
        return None
    if originals:
        result[ORIGINAL] = {"vr": "SQ", "Value": originals}
    return dict(sorted(result.items()))
