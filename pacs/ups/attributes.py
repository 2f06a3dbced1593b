"""Attributes of a workitem in the DICOM JSON model: tags, values, and what the index keeps of them (PS3.4 CC.2.5)."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from storage.errors import InvalidInput
from storage.workitems import OURS, Columns

__all__ = [
    "AFFECTED_SOP_CLASS",
    "AFFECTED_SOP_INSTANCE",
    "ANALYSIS",
    "PERFORMED",
    "PRIORITY",
    "SOP_CLASS",
    "SOP_INSTANCE",
    "STATE",
    "TRANSACTION_UID",
    "UPS_EVENT",
    "UPS_PUSH",
    "Model",
    "attribute",
    "code",
    "columns_of",
    "date_time",
    "first",
    "inputs",
    "items",
    "moment",
]

Model = dict[str, Any]

UPS_PUSH: Final = "1.2.840.10008.5.1.4.34.6.1"
UPS_EVENT: Final = "1.2.840.10008.5.1.4.34.6.4"
ANALYSIS: Final = ("CXR-TRIAGE", "99SANGLOC")
"""Code value and scheme of the Scheduled Workitem Code that asks for our triage of chest radiographs."""

AFFECTED_SOP_CLASS, AFFECTED_SOP_INSTANCE = "00000002", "00001000"
SOP_CLASS, SOP_INSTANCE, TRANSACTION_UID = "00080016", "00080018", "00081195"
STATE, PRIORITY, LABEL, WORKLIST_LABEL = "00741000", "00741200", "00741204", "00741202"
PERFORMED = "00741216"
_READINESS, _START, _EXPIRATION = "00404041", "00404005", "00404011"
_INPUT, _CODES, _PATIENT_ID = "00404021", "00404018", "00100020"
_STUDY, _REFERENCES, _REFERENCED = "0020000D", "00081199", "00081155"

_DT = re.compile(
    r"(?P<y>\d{4})(?:(?P<mo>\d\d)(?:(?P<d>\d\d)(?:(?P<h>\d\d)(?:(?P<mi>\d\d)(?:(?P<s>\d\d)(?:\.(?P<f>\d{1,6}))?)?)?)?)?)?"
    r"(?P<z>[+-]\d{4})?",
    re.ASCII,
)


def first(attributes: Mapping[str, Any], tag: str) -> Any:
    """The first value, '' where there is none."""
    values = attributes.get(tag, {}).get("Value") or [""]
    return "" if values[0] is None else values[0]


def items(attributes: Mapping[str, Any], tag: str) -> list[Model]:
    """The items of a sequence."""
    return [item or {} for item in attributes.get(tag, {}).get("Value") or ()]


def attribute(vr: str, *values: Any) -> Model:
    """One attribute."""
    return {"vr": vr, "Value": list(values)} if values else {"vr": vr}


def code(value: str, scheme: str, meaning: str) -> Model:
    """An item of a code sequence (PS3.3 8.8)."""
    return {
        "00080100": attribute("SH", value),
        "00080102": attribute("SH", scheme),
        "00080104": attribute("LO", meaning),
    }


def date_time(at: dt.datetime) -> str:
    """A moment as DT, with its offset from UTC."""
    return at.strftime("%Y%m%d%H%M%S.%f%z")


def moment(text: str) -> dt.datetime:
    """The moment of a DT, the first one that it may mean; without an offset in the local time of the server.

    Raises `InvalidInput`.
    """
    found = _DT.fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError(text)
        day = dt.date(int(found["y"]), int(found["mo"] or 1), int(found["d"] or 1))
        second = min(int(found["s"] or 0), 59)  # 60 is a leap second
        time = dt.time(int(found["h"] or 0), int(found["mi"] or 0), second, int((found["f"] or "0").ljust(6, "0")))
        at = dt.datetime.combine(day, time)
        return _zoned(at, found["z"])
    except (ValueError, OverflowError):
        raise InvalidInput("A date with time is YYYYMMDDHHMMSS.FFFFFF&ZZXX (PS3.5 6.2)") from None


def _zoned(at: dt.datetime, zone: str | None) -> dt.datetime:
    if not zone:
        return at.astimezone()
    offset = dt.timedelta(hours=int(zone[1:3]), minutes=int(zone[3:]))
    return at.replace(tzinfo=dt.timezone(-offset if zone[0] == "-" else offset))


def inputs(attributes: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """The studies of the Input Information Sequence, each with the instances that are meant, none for all of them."""
    for item in items(attributes, _INPUT):
        study = first(item, _STUDY)
        if study:
            yield study, [uid for one in items(item, _REFERENCES) if (uid := first(one, _REFERENCED))]


def columns_of(attributes: Mapping[str, Any]) -> Columns:
    """What the index keeps; raises `InvalidInput` for a date that is none."""
    asked = {(first(one, "00080100"), first(one, "00080102")) for one in items(attributes, _CODES)}
    expires = first(attributes, _EXPIRATION)
    return Columns(
        ready=first(attributes, _READINESS) == "READY",
        start_at=moment(first(attributes, _START)),
        expires_at=moment(expires) if expires else None,
        label=first(attributes, LABEL),
        worklist_label=first(attributes, WORKLIST_LABEL),
        patient_id=first(attributes, _PATIENT_ID),
        study_uids=sorted({study for study, _ in inputs(attributes)}),
        performer=OURS if ANALYSIS in asked else "",
    )
