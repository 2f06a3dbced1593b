"""Patients in HL7 messages: PID with what else is said of a person (PV1, OBX, AL1), and MRG."""

from __future__ import annotations

from typing import Any

from pacs.hl7 import fields
from pacs.hl7.fields import put
from pacs.hl7.message import Failure, Message, Segment

__all__ = ["Merge", "merges_of", "patient_of"]

Merge = tuple[dict[str, Any], tuple[str, str]]
"""Who stays, as a part of an order; identifier and issuer of who goes."""

_OWN = ("MR", "PI", "PT")  # identifier types of PID-3 that are a hospital's own (HL7 table 0203)
_PREGNANT = "B6"  # HL7 table 0009 -> (0010,21C0) 3: definitely pregnant
# OBX-3, code or text -> field of the patient and factor to kg and m.
_MEASURES = {
    "29463-7": ("weight_kg", 1.0), "3141-9": ("weight_kg", 1.0), "BODY WEIGHT": ("weight_kg", 1.0),
    "8302-2": ("size_m", 0.01), "3137-7": ("size_m", 0.01), "BODY HEIGHT": ("size_m", 0.01),
}  # fmt: skip
_UNITS = {"KG": 1.0, "G": 0.001, "CM": 0.01, "M": 1.0}


def patient_of(message: Message) -> dict[str, Any]:
    """What the message says of its patient; {} without PID."""
    pid = next(message.all("PID"), None)
    if pid is None:
        return {}
    values = _person(pid)
    visit = next(message.all("PV1"), None)
    if visit is not None:
        put(values, "location", fields.parts(visit, 3, 1, 2, 3))
        if _PREGNANT in {visit.get(15, repetition=n) for n in visit.repetitions(15)}:
            values["pregnancy_status"] = 3
    put(values, "state", message.get("OBR", 12, 2) or message.get("OBR", 12))
    put(values, "medical_alerts", message.get("OBR", 13))
    allergies = (segment.get(3, 2) or segment.get(3) for segment in message.all("AL1"))
    put(values, "allergies", ", ".join(filter(None, allergies)))
    for segment in message.all("OBX"):
        _measure(values, segment)
    return values


def merges_of(message: Message) -> list[Merge]:
    """The pairs of PID and MRG. Raises `Failure` where one half is missing."""
    found: list[Merge] = []
    person: dict[str, Any] = {}
    for segment in message.segments:
        if segment.name == "PID":
            person = _person(segment)
        elif segment.name == "MRG":
            prior = _identifier(segment, 1)
            if not person.get("id") or not prior[0]:
                raise Failure("AE", 101, "A merge needs PID-3 and MRG-1.", "MRG^1^1" if person.get("id") else "PID^1^3")
            found.append((person, prior))
    if not found:
        raise Failure("AE", 100, "There is no MRG segment.", "MRG^1")
    return found


def _person(pid: Segment) -> dict[str, Any]:
    values: dict[str, Any] = {}
    number, issuer = _identifier(pid, 3)
    if number:
        put(values, "id", number)
        put(values, "issuer", issuer)
    put(values, "name", fields.name(pid, 5))
    put(values, "birth_date", fields.date(pid.get(7), "PID^1^7"))
    put(values, "sex", fields.sex(pid.get(8)))
    return values


def _identifier(segment: Segment, field: int) -> tuple[str, str]:
    """The hospital's own identifier of a CX field, else the first; and who gave it."""
    chosen = 1
    for repetition in segment.repetitions(field):
        if segment.get(field, repetition=repetition) and segment.get(field, 5, repetition=repetition).upper() in _OWN:
            chosen = repetition
            break
    number = segment.get(field, repetition=chosen)
    return ("", "") if number == '""' else (number, segment.get(field, 4, repetition=chosen))


def _measure(values: dict[str, Any], obx: Segment) -> None:
    known = next((_MEASURES[name] for name in (obx.get(3).upper(), obx.get(3, 2).upper()) if name in _MEASURES), None)
    if known is None:
        return
    try:
        value = float(obx.get(5)) * _UNITS.get(obx.get(6).upper(), known[1])
    except ValueError:
        return
    if 0 < value < 1000:
        values[known[0]] = round(value, 3)
