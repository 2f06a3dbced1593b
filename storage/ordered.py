"""What an order says: patient, requested procedures and scheduled steps (PS3.3 C.4.10 to C.4.13), checked by their VR.

One shape for everybody: the API's JSON, what an HL7 message becomes, and the document in the table `orders`.
"""

from __future__ import annotations

import datetime as dt
import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NaiveDatetime, WithJsonSchema

from storage.errors import InvalidUID
from storage.uid import UID

__all__ = ["OPEN", "Code", "Order", "OrderStatus", "Patient", "Priority", "Procedure", "Step", "StepStatus"]

Priority = Literal["STAT", "HIGH", "MEDIUM", "ROUTINE", "LOW"]
"""Requested Procedure Priority (0040,1003), PS3.3 C.4.11."""
OrderStatus = Literal["SCHEDULED", "ON_HOLD", "IN_PROGRESS", "COMPLETED", "DISCONTINUED", "CANCELLED"]
StepStatus = Literal["SCHEDULED", "ARRIVED", "READY", "IN_PROGRESS", "COMPLETED", "DISCONTINUED", "CANCELLED"]
OPEN: tuple[StepStatus, ...] = ("SCHEDULED", "ARRIVED", "READY")
"""A step that waits for a modality; the rest of the words are ours, as (0040,0020) has none for what comes after."""

_BREAKS = "\t\r\n"
_MAX_PARTS = 50  # procedures of an order, steps of a procedure, codes: more is a mistake


def _plain(text: str) -> str:
    """Text of one line (PS3.5 6.2: LO, SH): no control character, no backslash; composed, as most screens want it."""
    blanks = {character for character in text if character in _BREAKS or unicodedata.category(character) == "Zs"}
    text = unicodedata.normalize("NFC", text.translate(dict.fromkeys(map(ord, blanks), " "))).strip()
    if "\\" in text or not text.isprintable():
        raise ValueError("may have neither control characters nor a backslash")
    return text


def _lines(text: str) -> str:
    return "\n".join(_plain(line) for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")).strip()


def _person(text: str) -> str:
    """PN (PS3.5 6.2.1): up to three groups of five components; empty ones at the end are dropped."""
    groups = [group.strip().rstrip("^ ") for group in _plain(text).split("=")]
    if len(groups) > 3 or any(group.count("^") > 4 or len(group) > 64 for group in groups):
        raise ValueError("a name has up to 3 groups (divided by =) of 64 characters with up to 5 parts (divided by ^)")
    return "=".join(groups).rstrip("=")


def _uid(text: str) -> str:
    try:
        return str(UID(text)) if text else ""
    except InvalidUID:
        raise ValueError("is not a UID (PS3.5 9.1)") from None


SH = Annotated[str, AfterValidator(_plain), Field(max_length=16)]
LO = Annotated[str, AfterValidator(_plain), Field(max_length=64)]
LT = Annotated[
    str,
    AfterValidator(_lines),
    Field(max_length=10_240),
    WithJsonSchema({"type": "string", "description": "several lines, at most 10,240 characters"}),
]
PN = Annotated[str, AfterValidator(_person), Field(max_length=200)]
AE = Annotated[str, AfterValidator(_plain), Field(max_length=16, pattern=r"^[\x20-\x5B\x5D-\x7E]*$")]
CS = Annotated[str, Field(max_length=16, pattern=r"^[A-Z0-9_ ]*$")]
UI = Annotated[str, AfterValidator(_uid), Field(max_length=64)]
LocalTime = Annotated[
    NaiveDatetime,
    WithJsonSchema({"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?$"}),
]
"""A time without a time zone, which JSON Schema's date-time is not."""
Number = Annotated[str, AfterValidator(_plain), Field(max_length=64)]
"""Of an order: (0040,2016) and (0040,2017) are LO."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Code(_Part):
    """A coded term (PS3.3 8.8)."""

    value: SH
    scheme: SH
    meaning: LO = ""


class Patient(_Part):
    """Who is to be examined; the name as alphabetic=ideographic=phonetic."""

    id: Annotated[LO, Field(min_length=1)]
    issuer: LO = ""
    name: Annotated[PN, Field(min_length=1)]
    birth_date: dt.date | None = None
    sex: Literal["", "M", "F", "O"] = ""
    weight_kg: Annotated[float, Field(gt=0, le=1000)] | None = None
    size_m: Annotated[float, Field(gt=0, le=3)] | None = None
    medical_alerts: LO = ""
    allergies: LO = ""
    pregnancy_status: Annotated[int, Field(ge=1, le=4)] | None = None
    special_needs: LO = ""
    state: LO = ""
    location: LO = ""
    confidentiality: LO = ""


class Step(_Part):
    """What one modality shall do, and when; `start` is on the clocks of the hospital."""

    step_id: SH = ""
    modality: Annotated[CS, Field(min_length=2)]
    start: LocalTime
    ae_title: AE = Field(default="", description="of the station; empty: any station of the modality")
    station_name: SH = ""
    location: SH = ""
    performing_physician: PN = ""
    description: LO = ""
    protocol: list[Code] = Field(default=[], max_length=_MAX_PARTS)
    premedication: LO = ""
    contrast_agent: LO = ""
    comments: LT = ""
    status: StepStatus = "SCHEDULED"


class Procedure(_Part):
    """A requested procedure: what leads to one study."""

    procedure_id: SH = ""
    study_uid: UI = ""
    description: LO = ""
    code: Code | None = None
    reason: LO = ""
    transport: LO = ""
    comments: LT = ""
    steps: list[Step] = Field(min_length=1, max_length=_MAX_PARTS)


class Order(_Part):
    """One order. Its numbers are those of the systems that place it and fill it."""

    placer_number: Number = ""
    placer_issuer: LO = ""
    filler_number: Number = ""
    filler_issuer: LO = ""
    accession_number: SH = ""
    accession_issuer: LO = ""
    priority: Priority = "ROUTINE"
    patient: Patient
    referring_physician: PN = ""
    requesting_physician: PN = ""
    requesting_service: LO = ""
    admission_id: LO = ""
    comments: LT = ""
    procedures: list[Procedure] = Field(min_length=1, max_length=_MAX_PARTS)
