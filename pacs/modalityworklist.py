"""The Modality Worklist information model (PS3.4 K.6): what a modality asks, and a scheduled step as it is answered."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

from pacs.identifiers import CHARACTER_SET, Element, Elements
from pacs.keymatching import date_span, matches, name_words, project, time_span
from storage.database import Database
from storage.errors import InvalidInput
from storage.planned import Planned, Wanted, planned

__all__ = ["answers", "as_elements", "wanted"]

_BATCH = 200  # steps read at a time
_MAX_EXAMINED = 20_000  # steps held against keys that no index knows; a few seconds

STEPS, STATION, START_DATE, START_TIME = 0x00400100, 0x00400001, 0x00400002, 0x00400003
MODALITY, PATIENT_NAME, PATIENT_ID, ACCESSION, STUDY_UID = 0x00080060, 0x00100010, 0x00100020, 0x00080050, 0x0020000D
PROCEDURE_ID, STEP_ID = 0x00401001, 0x00400009
_WILD = frozenset("*?")

# Attribute of the answer -> VR and where the value is in the order's document (PS3.4 table K.6-1).
_PATIENT = {
    PATIENT_NAME: ("PN", "name"), PATIENT_ID: ("LO", "id"), 0x00100021: ("LO", "issuer"),
    0x00100030: ("DA", "birth_date"), 0x00100040: ("CS", "sex"), 0x00101020: ("DS", "size_m"),
    0x00101030: ("DS", "weight_kg"), 0x00102000: ("LO", "medical_alerts"), 0x00102110: ("LO", "allergies"),
    0x001021C0: ("US", "pregnancy_status"), 0x00380050: ("LO", "special_needs"), 0x00380300: ("LO", "location"),
    0x00380500: ("LO", "state"), 0x00403001: ("LO", "confidentiality"),
}  # fmt: skip
_REQUEST = {
    ACCESSION: ("SH", "accession_number"), 0x00080090: ("PN", "referring_physician"),
    0x00321032: ("PN", "requesting_physician"), 0x00321033: ("LO", "requesting_service"),
    0x00380010: ("LO", "admission_id"), 0x00401003: ("SH", "priority"), 0x00402016: ("LO", "placer_number"),
    0x00402017: ("LO", "filler_number"), 0x00402400: ("LT", "comments"),
}  # fmt: skip
_PROCEDURE = {
    STUDY_UID: ("UI", "study_uid"), 0x00321060: ("LO", "description"), 0x00401001: ("SH", "procedure_id"),
    0x00401002: ("LO", "reason"), 0x00401004: ("LO", "transport"), 0x00401400: ("LT", "comments"),
}  # fmt: skip
_STEP = {
    MODALITY: ("CS", "modality"), 0x00321070: ("LO", "contrast_agent"), STATION: ("AE", "ae_title"),
    0x00400006: ("PN", "performing_physician"), 0x00400007: ("LO", "description"), 0x00400009: ("SH", "step_id"),
    0x00400010: ("SH", "station_name"), 0x00400011: ("SH", "location"), 0x00400012: ("LO", "premedication"),
    0x00400020: ("CS", "status"), 0x00400400: ("LT", "comments"),
}  # fmt: skip
_REFERENCED_STUDY, _REFERENCED_PATIENT, _ACCESSION_ISSUER = 0x00081110, 0x00081120, 0x00080051
_PROCEDURE_CODE, _PROTOCOL_CODE, _LOCAL_ISSUER = 0x00321064, 0x00400008, 0x00400031


def answers(database: Database, asked: Elements, caller: str, limit: int) -> Iterator[tuple[Elements, bool] | None]:
    """What a modality is answered, step by step: the identifier, and whether a key was not known; None when it is cut.

    Args:
        database: where the orders are; no connection is held between two answers.
        asked: the identifier.
        caller: the calling AE title, which is the station of a step that has none.
        limit: answers given at most.

    Raises:
        InvalidInput: a key makes no sense.
        DatabaseUnavailable: the database is away.
    """
    keys = {tag: key for tag, key in asked.items() if tag != CHARACTER_SET and tag & 0xFFFF}
    search = wanted(keys)
    station = search.ae_title or caller
    given, examined, after = 0, 0, None
    while True:
        with database.autocommit() as connection:
            batch = planned(connection, search, after, _BATCH)
        for step in batch:
            found = as_elements(step, station, keys)
            if not _matches(keys, found):
                continue
            if given == limit:
                yield None
                return
            given += 1
            yield project(keys, found)
        examined += len(batch)
        if len(batch) < _BATCH:
            return
        if examined >= _MAX_EXAMINED:
            yield None
            return
        after = batch[-1].start_at, batch[-1].step_pk


def _matches(keys: Elements, found: Elements) -> bool:
    """Whether a step is all that was asked for; its start is in the search already, as one moment (table K.6-1)."""
    if not all(tag == STEPS or matches(key, found.get(tag)) for tag, key in keys.items()):
        return False
    asked = _step_keys(keys)
    if not asked:
        return True
    (step,) = found[STEPS].values
    return all(matches(key, step.get(tag)) for tag, key in asked.items() if tag not in (START_DATE, START_TIME))


def _step_keys(keys: Elements) -> Elements:
    items = keys[STEPS].values if STEPS in keys else ()
    if len(items) > 1:
        raise InvalidInput("Scheduled Procedure Step Sequence (0040,0100) has more than one item (PS3.4 C.2.2.2.6).")
    found: Elements = items[0] if items else {}
    return found


def wanted(keys: Elements) -> Wanted:
    """What the database can find; raises `InvalidInput` for a date or time that is none."""
    step = _step_keys(keys)
    first, last = _moments(_first(step, START_DATE), _first(step, START_TIME))
    return Wanted(
        ae_title=_exact(step, STATION),
        modalities=[str(v) for v in step[MODALITY].values] if _exact(step, MODALITY) else [],
        first=first,
        last=last,
        patient_id=_exact(keys, PATIENT_ID),
        accession_number=_exact(keys, ACCESSION),
        procedure_id=_exact(keys, PROCEDURE_ID),
        step_id=_exact(step, STEP_ID),
        study_uids=[str(uid) for uid in keys[STUDY_UID].values] if STUDY_UID in keys else [],
        name_words=name_words(_first(keys, PATIENT_NAME)),
    )


def _first(keys: Elements, tag: int) -> str:
    return str(keys[tag].values[0]) if tag in keys and keys[tag].values else ""


def _exact(keys: Elements, tag: int) -> str | None:
    """The value of a key that is no pattern."""
    value = "\\".join(map(str, keys[tag].values)) if tag in keys else ""
    return _first(keys, tag) if value and not _WILD & set(value) else None


def _moments(date: str, time: str) -> tuple[dt.datetime | None, dt.datetime | None]:
    """Start date and time as one range: from the first time on the first day to the last time on the last day."""
    days, times = date_span(date), time_span(time)
    if not any(days) and any(times):
        raise InvalidInput("Scheduled Procedure Step Start Time (0040,0003) needs a start date (PS3.4 K.6.1.2.2).")
    first, last = days
    return (
        _moment(first, times[0] or "000000.000000") if first else None,
        _moment(last, times[1] or "235959.999999") if last else None,
    )


def _moment(date: str, time: str) -> dt.datetime:
    seconds = min(int(time[4:6]), 59)
    micro = int(time[7:13].ljust(6, "0"))
    return dt.datetime.combine(dt.date.fromisoformat(date), dt.time(int(time[:2]), int(time[2:4]), seconds, micro))


def as_elements(planned_step: Planned, station: str, keys: Elements) -> dict[int, Element]:
    """What is known of a step, its procedure, its order and its patient, as far as it was asked for."""
    order = planned_step.content
    procedure = next(each for each in order["procedures"] if each["procedure_id"] == planned_step.procedure_id)
    step = next(each for each in procedure["steps"] if each["step_id"] == planned_step.step_id)
    planned_as = step["description"] or next((code["meaning"] for code in step["protocol"]), "")
    asked_as = procedure["description"] or (procedure["code"] or {}).get("meaning", "")
    description = asked_as or planned_as or step["modality"]  # type 1C: one of description and code
    found = {
        **_elements(_PATIENT, order["patient"], keys),
        **_elements(_REQUEST, order, keys),
        **_elements(_PROCEDURE, {**procedure, "description": description}, keys),
        **{tag: Element("SQ", items(order, procedure)) for tag, items in _SEQUENCES.items() if tag in keys},
    }
    if STEPS in keys:
        known = {**step, "ae_title": step["ae_title"] or station, "description": planned_as or description}
        found[STEPS] = Element("SQ", [_step(planned_step.start_at, known, _step_keys(keys) or _WHOLE_STEP)])
    return found


def _step(start: dt.datetime, step: Mapping[str, Any], keys: Container[int]) -> dict[int, Element]:
    found = _elements(_STEP, step, keys)
    if START_DATE in keys:
        found[START_DATE] = Element("DA", (start.date().isoformat().replace("-", ""),))
    if START_TIME in keys:
        found[START_TIME] = Element("TM", (f"{start:%H%M%S}",))
    if _PROTOCOL_CODE in keys:
        found[_PROTOCOL_CODE] = Element("SQ", _codes(step["protocol"]))
    return found


def _elements(
    table: Mapping[int, tuple[str, str]], values: Mapping[str, Any], keys: Container[int]
) -> dict[int, Element]:
    return {tag: Element(vr, _values(vr, values.get(name))) for tag, (vr, name) in table.items() if tag in keys}


def _values(vr: str, value: Any) -> Sequence[Any]:
    if value is None or value == "":
        return ()
    if vr == "DA":
        return (str(value).replace("-", ""),)
    if vr == "DS":
        return (f"{value:.10g}",)
    return (value.replace("\n", "\r\n"),) if vr == "LT" else (value,)


def _issuer(order: Mapping[str, Any], _: Mapping[str, Any]) -> list[Elements]:
    issuer = order["accession_issuer"]
    return [{_LOCAL_ISSUER: Element("UT", (issuer,))}] if issuer else []


def _codes(codes: Sequence[Mapping[str, str]]) -> list[Elements]:
    return [
        {
            0x00080100: Element("SH", (code["value"],)),
            0x00080102: Element("SH", (code["scheme"],)),
            0x00080104: Element("LO", (code["meaning"] or code["value"],)),
        }
        for code in codes
    ]


_SEQUENCES: dict[int, Callable[[Mapping[str, Any], Mapping[str, Any]], list[Elements]]] = {
    _ACCESSION_ISSUER: _issuer,
    _PROCEDURE_CODE: lambda _, procedure: _codes([procedure["code"]] if procedure["code"] else []),
    _REFERENCED_STUDY: lambda *_: [],
    _REFERENCED_PATIENT: lambda *_: [],
}
_WHOLE_STEP = {*_STEP, START_DATE, START_TIME, _PROTOCOL_CODE}
