"""Corrections of patients, studies and series: the index holds the new values, the bytes stay, and what goes out is
corrected. Every function runs inside `changes.write` and returns its entry in the history.

A study keeps the patient attributes that it was sent with until a person says otherwise: a patient's update changes all
studies that the patient has now, and later ones only if their Patient ID was merged away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from storage import changes, corrections, rows
from storage.changes import By, Change
from storage.corrections import ORIGINAL, OTHER_PERSON, PATIENT, SERIES, STUDY, Attribute, Json
from storage.database import Connection
from storage.errors import Conflict, InvalidInput, NotFound
from storage.rows import Row

__all__ = ["PatientKey", "adopt", "merge_patients", "move_study", "update_patient", "update_series", "update_study"]

_IDS = ("PatientID", "IssuerOfPatientID")
_OF_PATIENT = {"patient_name": "name", "patient_birth_date": "birth_date", "patient_sex": "sex"}
_AS_SENT = ("patient_key", "patient_id", "patient_name", "patient_birth_date", "patient_sex", "corrections")


@dataclass(frozen=True, slots=True)
class PatientKey:
    """How a patient is known: Patient ID and its issuer ('' where none was sent)."""

    patient_id: str
    issuer: str = ""

    def __post_init__(self) -> None:
        for text in (self.patient_id, self.issuer):
            if len(text) > 64 or "\\" in text or not text.isprintable() or text != text.strip():
                raise InvalidInput("A Patient ID has at most 64 characters, no backslash and no control character.")
        if not self.patient_id:
            raise InvalidInput("A patient is known by its Patient ID; a study without one is moved to a patient.")

    def __str__(self) -> str:
        return f"{self.issuer}\\{self.patient_id}"  # as storage.indexing makes it


def update_patient(connection: Connection, key: PatientKey, given: Mapping[str, str], by: By) -> Change:
    """Correct a patient and all its studies; another Patient ID means that the old one is merged into the new one.

    Raises:
        NotFound: there is no such patient.
        Conflict: it was merged into another, or another patient has the new Patient ID.
        InvalidInput: an attribute or value that is not allowed.
    """
    values = corrections.parse(given, PATIENT)
    row = _patient(connection, key)
    renamed = PatientKey(values.get("PatientID", key.patient_id), values.get("IssuerOfPatientID", key.issuer))
    after = row | {"patient_key": str(renamed), "patient_id": renamed.patient_id, "issuer": renamed.issuer}
    after |= {
        _OF_PATIENT[column]: value for column, value in _columns(values, PATIENT).items() if column in _OF_PATIENT
    }
    if renamed != key and rows.patient(connection, str(renamed)) is not None:
        raise Conflict("There is a patient with this Patient ID already: merge the two.")
    rows.write_patient(connection, after)
    history = _History()
    if renamed == key:
        history.note("patients", str(key), row, after)
    for study in rows.studies_by(connection, "p.patient_key = %s", str(key)):
        assigned = {"patient_key": str(renamed), "issuer": renamed.issuer} if renamed != key else {}
        _correct(connection, history, study, values, assigned)
    detail: dict[str, Any] = {"patient": str(key)}
    if renamed != key:
        detail |= {"into": str(renamed), "forwarded": _forward(connection, key, renamed)}
    return history.record(connection, "update_patient", by, detail)


def merge_patients(
    connection: Connection, old: PatientKey, into: PatientKey, by: By, *, new: Mapping[str, str] | None = None
) -> Change:
    """Give all studies of `old` to `into`, now and for those that come later under the old Patient ID (HL7 A40).

    Args:
        connection: inside `changes.write`.
        old: the Patient ID that shall not be used any more.
        into: the patient that stays.
        by: who, and why.
        new: attributes of patients that are not known yet; without it both must be known.

    Raises: as `update_patient`; `Conflict` if one of them was merged before, or both are the same.
    """
    if old == into:
        raise Conflict("A patient cannot be merged into itself.")
    for key in (old, into):
        if new is not None and rows.patient(connection, str(key)) is None:
            _make(connection, key, new)
    _patient(connection, old)
    target = _patient(connection, into)
    history = _History()
    for study in rows.studies_by(connection, "p.patient_key = %s", str(old)):
        _assign(connection, history, study, target)
    detail = {"patient": str(old), "into": str(into), "forwarded": _forward(connection, old, into)}
    return history.record(connection, "merge_patients", by, detail)


def move_study(
    connection: Connection, study_uid: str, key: PatientKey, by: By, *, new: Mapping[str, str] | None = None
) -> Change:
    """Give a study to the patient that it belongs to; what else it says of the other person is emptied.

    `new` holds the attributes of a patient that is not known yet. Raises: as `merge_patients`.
    """
    study = rows.study(connection, study_uid)
    if study["patient_key"] == str(key):
        raise Conflict("The study belongs to this patient already.")
    if new is not None and rows.patient(connection, str(key)) is None:
        _make(connection, key, new)
    history = _History()
    _assign(connection, history, study, _patient(connection, key), others=dict.fromkeys(OTHER_PERSON, ""))
    return history.record(connection, "move_study", by, {"patient": study["patient_key"], "into": str(key)})


def update_study(connection: Connection, study_uid: str, given: Mapping[str, str], by: By) -> Change:
    """Correct a study; patient attributes, too, where this study alone has them wrong, but not the Patient ID."""
    allowed = {name: attribute for name, attribute in (STUDY | PATIENT).items() if name not in _IDS}
    values = corrections.parse(given, allowed)
    history = _History()
    _correct(connection, history, rows.study(connection, study_uid), values, {})
    return history.record(connection, "update_study", by, {})


def update_series(connection: Connection, study_uid: str, series_uid: str, given: Mapping[str, str], by: By) -> Change:
    """Correct a series."""
    values = corrections.parse(given, SERIES)
    study = rows.study(connection, study_uid)
    found = rows.series_row(connection, study["study_pk"], series_uid)
    if not found:
        raise NotFound(f"There is no series {series_uid} in study {study_uid}.")
    before = found[0]
    edits = _corrected(before["edits"], corrections.identity(before, SERIES), corrections.shown(values, SERIES))
    after = before | _columns(values, SERIES) | {"edits": edits}
    rows.write_series(connection, before["series_pk"], after)
    history = _History()
    history.touched(study)
    history.note("series", f"{study_uid}/{series_uid}", before, after)
    return history.record(connection, "update_series", by, {"series_uid": series_uid})


def adopt(connection: Connection, study_uids: Sequence[str]) -> None:
    """Studies that just came under a Patient ID that was merged away go where it was merged into."""
    for study in rows.studies_by(connection, "p.merged_into IS NOT NULL AND s.study_uid = ANY(%s)", list(study_uids)):
        found = connection.execute(
            "SELECT t.patient_key FROM patients AS p JOIN patients AS t ON t.patient_pk = p.merged_into"
            " WHERE p.patient_key = %s",
            (study["patient_key"],),
        ).fetchone()
        assert found is not None
        target = rows.patient(connection, found[0])
        assert target is not None
        _assign(connection, _History(), study, target)
        sent = Jsonb({column: study[column] for column in _AS_SENT})
        connection.execute("UPDATE studies SET as_sent = %s WHERE study_pk = %s", (sent, study["study_pk"]))
        rows.derive(connection, [study["study_pk"]])


class _History:
    """Collects what a change did to rows."""

    def __init__(self) -> None:
        self.before: dict[str, dict[str, Row]] = {}
        self.after: dict[str, dict[str, Row]] = {}
        self.studies: dict[str, int] = {}

    def touched(self, study: Row) -> None:
        self.studies[study["study_uid"]] = study["study_pk"]

    def note(self, table: str, key: str, before: Row, after: Row) -> None:
        old, new = rows.difference(before, after)
        self.before.setdefault(table, {})[key] = old
        self.after.setdefault(table, {})[key] = new

    def record(self, connection: Connection, kind: changes.Kind, by: By, detail: Mapping[str, Any]) -> Change:
        study_pks = list(self.studies.values())
        rows.derive(connection, study_pks)
        changes.settle(connection, study_pks)
        return changes.record(
            connection, kind, by, sorted(self.studies), detail=detail, before=self.before, after=self.after
        )


def _patient(connection: Connection, key: PatientKey) -> Row:
    found = rows.patient(connection, str(key))
    if found is None:
        raise NotFound("There is no patient with this Patient ID and issuer.")
    if found["merged_into"] is not None:
        raise Conflict("This Patient ID was merged into another one.")
    return found


def _make(connection: Connection, key: PatientKey, given: Mapping[str, str]) -> None:
    allowed = {name: attribute for name, attribute in PATIENT.items() if name not in _IDS}
    values = corrections.parse(given, allowed) if given else {}
    own = {"patient_key": str(key), "patient_id": key.patient_id, "issuer": key.issuer}
    rows.write_patient(connection, {"name": "", "sex": "", "birth_date": None} | _patient_columns(values) | own)


def _forward(connection: Connection, old: PatientKey, into: PatientKey) -> list[str]:
    """What comes under the old Patient ID goes to the new one; so it does for those merged into it before: these."""
    earlier = connection.execute(
        "UPDATE patients AS p SET merged_into = t.patient_pk FROM patients AS o, patients AS t"
        " WHERE o.patient_key = %s AND t.patient_key = %s AND p.merged_into = o.patient_pk RETURNING p.patient_key",
        (str(old), str(into)),
    ).fetchall()
    connection.execute(
        "UPDATE patients SET merged_into = (SELECT patient_pk FROM patients WHERE patient_key = %s)"
        " WHERE patient_key = %s",
        (str(into), str(old)),
    )
    return sorted(key for (key,) in earlier)


def _assign(
    connection: Connection, history: _History, study: Row, target: Row, others: Mapping[str, str] | None = None
) -> None:
    values = {
        "PatientName": target["name"],
        "PatientID": target["patient_id"],
        "IssuerOfPatientID": target["issuer"],
        "PatientBirthDate": (target["birth_date"] or "").replace("-", ""),
        "PatientSex": target["sex"],
        **(others or {}),
    }
    assigned = {"patient_key": target["patient_key"], "issuer": target["issuer"]}
    _correct(connection, history, study, values, assigned)


def _correct(
    connection: Connection,
    history: _History,
    study: Row,
    values: Mapping[str, str],
    assigned: Row,
) -> None:
    """New values for one study: columns, corrections, words of the name."""
    known = corrections.identity(study, STUDY | PATIENT)
    after = study | _columns(values, STUDY | PATIENT) | assigned
    after["corrections"] = _corrected(study["corrections"], known, corrections.shown(values, STUDY | PATIENT))
    rows.write_study(connection, study["study_pk"], rows.difference(study, after)[1])
    history.touched(study)
    history.note("studies", study["study_uid"], study, after)


def _patient_columns(values: Mapping[str, str]) -> Row:
    return {_OF_PATIENT[name]: value for name, value in _columns(values, PATIENT).items() if name in _OF_PATIENT}


def _columns(values: Mapping[str, str], allowed: Mapping[str, Attribute]) -> Row:
    kept = {keyword: allowed[keyword] for keyword in values if allowed[keyword].column}
    return {attribute.column: corrections.column_value(attribute, values[key]) for key, attribute in kept.items()}


def _corrected(standing: Json | None, known: Json, new: Json) -> Json:
    """Corrections with new attributes, and a note of what they replace."""
    result = dict(standing or {})
    current = known | result
    replaced = {tag: current[tag] for tag, value in new.items() if tag in current and current[tag] != value}
    items = [*result.get(ORIGINAL, {}).get("Value", [])]
    if replaced:
        items.append(corrections.original_item(replaced))
    result |= new
    if items:
        result[ORIGINAL] = {"vr": "SQ", "Value": items}
    return dict(sorted(result.items()))
