"""Patients as the hospital's system knows them, brought to orders and to what is stored (IHE PIR)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pacs.ordering import Desk, Origin
from storage import editing, orders, patients
from storage.changes import By
from storage.database import Connection
from storage.editing import PatientKey

__all__ = ["merge", "update"]

_OPEN = ("SCHEDULED", "ON_HOLD", "IN_PROGRESS")
_KEYWORDS = {"name": "PatientName", "birth_date": "PatientBirthDate", "sex": "PatientSex"}


def update(connection: Connection, desk: Desk, patient: Mapping[str, Any], origin: Origin) -> list[int]:
    """Correct a patient, inside `changes.write`: open orders and stored studies; the orders that changed.

    `patient` is a part of an order's `storage.ordered.Patient`. Who has no orders and no studies is passed over.

    Raises: as `editing.update_patient`.
    """
    changed = [number for number in _orders_of(connection, patient["id"], patient.get("issuer", ""))
               if desk.change(connection, number, {"patient": _kept_issuer(patient)}, origin)]  # fmt: skip
    given = _given(patient)
    key = _known(connection, patient["id"], patient.get("issuer", ""))
    if key is not None and given and patients.differs(connection, str(key), given):
        editing.update_patient(connection, key, given, By(actor=origin.actor, reason="HL7 patient update"))
    return changed


def merge(
    connection: Connection, desk: Desk, patient: Mapping[str, Any], prior: tuple[str, str], origin: Origin
) -> list[int]:
    """One patient turned out to be another, inside `changes.write`; the orders that changed.

    What comes later under the prior identifier goes to the one that stays.

    Raises: as `editing.merge_patients`.
    """
    changed = [number for number in _orders_of(connection, *prior)
               if desk.change(connection, number, {"patient": patient}, origin)]  # fmt: skip
    old = _known(connection, *prior) or PatientKey(prior[0])
    into = PatientKey(patient["id"], patient.get("issuer", "") if old.issuer else "")
    if old != into and not _is_merged(connection, old, into):
        editing.merge_patients(
            connection, old, into, By(actor=origin.actor, reason="HL7 patient merge"), new=_given(patient)
        )
    return changed


def _orders_of(connection: Connection, patient_id: str, issuer: str) -> list[int]:
    """Open orders of a patient; an issuer counts where both sides name one."""
    return orders.of_patient(connection, patient_id, issuer, _OPEN)


def _known(connection: Connection, patient_id: str, issuer: str) -> PatientKey | None:
    """The patient with this issuer, else without one: few modalities send it."""
    for each in dict.fromkeys((issuer, "")):
        key = PatientKey(patient_id, each)
        if patients.target(connection, str(key)) is not None:
            return key
    return None


def _is_merged(connection: Connection, old: PatientKey, into: PatientKey) -> bool:
    return patients.target(connection, str(old)) == str(into)


def _kept_issuer(patient: Mapping[str, Any]) -> dict[str, Any]:
    """Without identifiers, which say who is meant and are no news."""
    return {key: value for key, value in patient.items() if key not in ("id", "issuer")}


def _given(patient: Mapping[str, Any]) -> dict[str, str]:
    """The attributes of PS3.3 C.7.1.1 that are named."""
    return {
        keyword: str(patient[key] or "").replace("-", "") if key == "birth_date" else str(patient[key] or "")
        for key, keyword in _KEYWORDS.items()
        if key in patient
    }
