"""What ORM^O01 and OMI^O23 say about orders (IHE Radiology RAD-2, RAD-4, RAD-13): segments to changes of an order."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pacs.hl7 import fields
from pacs.hl7.fields import put
from pacs.hl7.message import Failure, Message, Segment
from pacs.hl7.patients import patient_of

__all__ = ["Asked", "asked_of", "location_of"]

_SH = 16
# HL7 table 0074 -> Modality (0008,0060); a modality itself is taken as it is.
_SECTIONS = {
    "RAD": "DX", "RX": "DX", "CTH": "XA", "NMR": "MR", "NMS": "NM", "RUS": "US", "OUS": "US", "VUS": "US", "CUS": "US",
    "XRC": "XA", "MAM": "MG", "BMD": "BMD", "END": "ES",
}  # fmt: skip


@dataclass(slots=True)
class Asked:
    """What a message asks of one order. `given` is for `pacs.ordering.Desk`, `otherwise` only where it is a new one."""

    control: str  # ORC-1
    state: str  # ORC-5
    placer: tuple[str, str]
    filler: tuple[str, str]
    accession: str = ""
    given: dict[str, Any] = field(default_factory=dict)
    otherwise: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _Group:
    """The segments of one order: ORC and what follows it."""

    orc: Segment
    others: list[Segment] = field(default_factory=list)

    def all(self, name: str) -> Iterator[Segment]:
        return (segment for segment in self.others if segment.name == name)


def asked_of(message: Message, now: dt.datetime) -> list[Asked]:
    """The orders of a message; segments of one order number are one order with several steps.

    Args:
        message: ORM^O01 or OMI^O23.
        now: when it is to begin if nothing in the message says so; without a time zone.

    Raises:
        Failure: it has no order, or one that cannot be told from others.
    """
    groups = _groups(message)
    common = _of_visit(message)
    sent = fields.moment(message.header.field(7).partition("^")[0], "MSH^1^7") or now
    study_uids = [uid for segment in message.all("ZDS") if (uid := segment.get(1))]
    found: list[Asked] = []
    for n, group in enumerate(groups, 1):
        asked = _asked(group, n)
        asked.given = {**common, **asked.given, "procedures": _procedures(group, study_uids)}
        _put_numbers(asked)
        known = next((other for other in found if _same(other, asked)), None)
        if known is None:
            found.append(asked)
        else:
            known.given["procedures"] += asked.given["procedures"]
    for asked in found:
        asked.given["procedures"] = _joined(asked.given["procedures"])
        _defaults(asked, sent)
    return found


def _groups(message: Message) -> list[_Group]:
    groups: list[_Group] = []
    for segment in message.segments:
        if segment.name == "ORC":
            groups.append(_Group(segment))
        elif groups:
            groups[-1].others.append(segment)
        elif segment.name in ("OBR", "IPC", "TQ1"):
            raise Failure("AE", 100, f"{segment.name} comes before the first ORC.", f"{segment.name}^1")
    if not groups:
        raise Failure("AE", 100, "There is no ORC segment.", "ORC^1")
    return groups


def _asked(group: _Group, n: int) -> Asked:
    """Control, numbers and what the order says once."""
    orc, obr = group.orc, next(group.all("OBR"), group.orc)
    has_obr = obr is not orc
    placer, filler = fields.entity(orc, 2), fields.entity(orc, 3)
    if has_obr:
        placer, filler = placer if placer[0] else fields.entity(obr, 2), filler if filler[0] else fields.entity(obr, 3)
    asked = Asked(orc.get(1).upper(), orc.get(5).upper(), placer, filler)
    if not asked.control:
        raise Failure("AE", 101, "ORC-1, the order control, is missing.", f"ORC^{n}^1")
    accessions = [ipc.get(1) for ipc in group.all("IPC")] + ([obr.get(18)] if has_obr else [])
    asked.accession = next((value for value in accessions if value not in ("", '""')), "")
    if not (placer[0] or filler[0] or asked.accession):
        raise Failure("AE", 101, "The order has no number: ORC-2, ORC-3 or OBR-18.", f"ORC^{n}^2")
    values = asked.given
    words = [tq1.get(9) for tq1 in group.all("TQ1")] + [orc.get(7, 6)]
    words += [obr.get(27, 6), obr.get(5)] if has_obr else []
    put(values, "priority", next(filter(None, map(fields.priority, words)), ""))
    physician = fields.physician(orc, 12) or (fields.physician(obr, 16) if has_obr else "")
    put(values, "requesting_physician", physician)
    put(values, "requesting_service", fields.parts(orc, 17, 2) or fields.parts(orc, 17, 1))
    put(values, "comments", "\n".join(filter(None, (note.get(3) for note in group.all("NTE")))))
    return asked


def _put_numbers(asked: Asked) -> None:
    for name, (number, issuer) in (("placer", asked.placer), ("filler", asked.filler)):
        if number:
            put(asked.given, f"{name}_number", number)
            put(asked.given, f"{name}_issuer", issuer)
    put(asked.given, "accession_number", asked.accession)


def _of_visit(message: Message) -> dict[str, Any]:
    """What PID and PV1 say, which is the same for all orders of a message."""
    values: dict[str, Any] = {}
    put(values, "patient", patient_of(message))
    visit = next(message.all("PV1"), None)
    if visit is not None:
        put(values, "referring_physician", fields.physician(visit, 8))
        put(values, "admission_id", visit.get(19))
    if "admission_id" not in values:
        put(values, "admission_id", message.get("PID", 18))
    return values


def _procedures(group: _Group, study_uids: list[str]) -> list[dict[str, Any]]:
    """The requested procedures of a group with their steps: one for each IPC, else one for the OBR."""
    obr = next(group.all("OBR"), None)
    if obr is None:
        return []
    start = _start(group, obr)
    planned: list[Segment | None] = [*group.all("IPC")]
    study_uid = next((segment.get(1) for segment in group.all("ZDS")), "") or next(iter(study_uids), "")
    found = []
    for ipc in planned or [None]:
        procedure = _procedure(obr)
        step = _step(obr, start)
        if ipc is not None:
            put(procedure, "procedure_id", ipc.get(2))
            put(procedure, "study_uid", ipc.get(3))
            _plan(step, ipc)
        elif study_uid:
            put(procedure, "study_uid", study_uid)
        found.append({**procedure, "steps": [step]})
    return found


def _procedure(obr: Segment) -> dict[str, Any]:
    values: dict[str, Any] = {}
    put(values, "procedure_id", obr.get(19))
    code = fields.code(obr, 44) or fields.code(obr, 4)
    put(values, "code", code)
    put(values, "description", obr.get(44, 2) or obr.get(4, 2))
    put(values, "reason", obr.get(31, 2) or obr.get(31))
    put(values, "transport", obr.get(30))
    return values


def _step(obr: Segment, start: dt.datetime | None) -> dict[str, Any]:
    values: dict[str, Any] = {}
    put(values, "step_id", obr.get(20))
    section = obr.get(24).upper()
    put(values, "modality", _SECTIONS.get(section, section))
    protocol = fields.code(obr, 4, 4)
    put(values, "protocol", [protocol] if protocol else [])
    put(values, "description", obr.get(4, 5))
    put(values, "start", start.isoformat() if start is not None else "")
    return values


def _plan(step: dict[str, Any], ipc: Segment) -> None:
    """What an IPC segment says of a step (HL7 v2.5 4.6.6)."""
    put(step, "step_id", ipc.get(4))
    put(step, "modality", ipc.get(5).upper())
    protocol = fields.code(ipc, 6)
    put(step, "protocol", [protocol] if protocol else [])
    put(step, "description", ipc.get(6, 2))
    put(step, "station_name", ipc.get(7))
    put(step, "location", ipc.get(8, 2) or ipc.get(8))
    put(step, "ae_title", ipc.get(9))


def _start(group: _Group, obr: Segment) -> dt.datetime | None:
    """When it is to begin: TQ1-7, ORC-7.4, OBR-27.4, OBR-36, whichever is given first."""
    places = [(tq1.get(7), "TQ1^1^7") for tq1 in group.all("TQ1")]
    places += [(group.orc.get(7, 4), "ORC^1^7"), (obr.get(27, 4), "OBR^1^27"), (obr.get(36), "OBR^1^36")]
    return next((found for text, at in places if (found := fields.moment(text, at)) is not None), None)


def _same(one: Asked, other: Asked) -> bool:
    """Whether two groups are one order."""
    if one.placer[0] or other.placer[0]:
        return one.placer == other.placer
    return one.filler == other.filler if one.filler[0] else one.accession == other.accession


def _joined(procedures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Procedures of one ID, or without any, as one with all their steps."""
    found: dict[str, dict[str, Any]] = {}
    for procedure in procedures:
        known = found.setdefault(procedure.get("procedure_id") or "", {**procedure, "steps": []})
        known["steps"] += procedure["steps"]
    return list(found.values())


def _defaults(asked: Asked, sent: dt.datetime) -> None:
    """For a new order: an accession number that images can carry, and a start."""
    if not asked.accession:
        numbers = (asked.filler[0], asked.placer[0])
        put(asked.otherwise, "accession_number", next((n for n in numbers if 0 < len(n) <= _SH), ""))
    asked.otherwise["start"] = sent.isoformat()


# Where in a message the parts of an order come from, for ERR-2; the last that fits counts.
_LOCATIONS = (
    ("patient.id", "PID^1^3"), ("patient.issuer", "PID^1^3"), ("patient.name", "PID^1^5"), ("patient.", "PID^1"),
    ("patient", "PID^1"), ("placer_", "ORC^1^2"), ("filler_", "ORC^1^3"), ("accession_number", "OBR^1^18"),
    ("requesting_physician", "ORC^1^12"), ("requesting_service", "ORC^1^17"), ("referring_physician", "PV1^1^8"),
    ("admission_id", "PV1^1^19"), ("comments", "NTE^1^3"), ("procedure_id", "OBR^1^19"), ("study_uid", "ZDS^1^1"),
    ("step_id", "OBR^1^20"), ("modality", "OBR^1^24"), ("start", "OBR^1^36"), ("ae_title", "IPC^1^9"),
    ("station_name", "IPC^1^7"), ("location", "IPC^1^8"), ("reason", "OBR^1^31"), ("transport", "OBR^1^30"),
    ("code", "OBR^1^4"), ("protocol", "OBR^1^4"), ("description", "OBR^1^4"), ("procedures", "OBR^1"),
)  # fmt: skip


def location_of(path: str) -> str:
    """The segment and field that a part of an order is read from, such as PID^1^5 for patient.name."""
    for part, location in _LOCATIONS:
        if path.startswith(part) or f".{part}" in path:
            return location
    return ""
