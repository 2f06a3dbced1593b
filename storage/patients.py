"""Patients as rows: whether what another system says of them is news."""

from __future__ import annotations

from collections.abc import Mapping

from storage.database import Connection

__all__ = ["differs", "target"]


def target(connection: Connection, patient_key: str) -> str | None:
    """The key of whom a patient was merged into, the patient's own where not merged; None for an unknown one."""
    found = connection.execute(
        "SELECT coalesce(t.patient_key, p.patient_key) FROM patients AS p"
        " LEFT JOIN patients AS t ON t.patient_pk = p.merged_into WHERE p.patient_key = %s",
        (patient_key,),
    ).fetchone()
    return None if found is None else str(found[0])


def differs(connection: Connection, patient_key: str, given: Mapping[str, str]) -> bool:
    """Whether a patient or one of the studies has another name, birth date (YYYYMMDD) or sex than those given."""
    rows = connection.execute(
        "SELECT p.name, to_char(p.birth_date, 'YYYYMMDD'), p.sex FROM patients AS p WHERE patient_key = %(key)s"
        " UNION SELECT patient_name, to_char(patient_birth_date, 'YYYYMMDD'), patient_sex FROM studies"
        " WHERE patient_fk = (SELECT patient_pk FROM patients WHERE patient_key = %(key)s)",
        {"key": patient_key},
    )
    asked = ("PatientName", "PatientBirthDate", "PatientSex")
    return any(
        keyword in given and (value or "") != given[keyword]
        for row in rows
        for keyword, value in zip(asked, row, strict=True)
    )
