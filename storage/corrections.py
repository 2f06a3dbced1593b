"""Which attributes may be corrected, and how a corrected value looks in DICOM JSON and in a column of the index.

`studies.corrections` and `series.corrections` hold DICOM JSON attributes (PS3.18 F.2) that override those of every
object beneath on its way out. Original Attributes Sequence (0400,0561) among them tells what stood there before, by
whom and when it was changed (PS3.3 C.12.1.1.9).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydicom.config import RAISE
from pydicom.valuerep import validate_value

from storage.errors import InvalidInput

__all__ = [
    "ORIGINAL", "OTHER_PERSON", "PATIENT", "SERIES", "SERIES_UID", "STUDY", "STUDY_UID", "Attribute", "column_value",
    "identity", "json_value", "original_item", "parse", "shown", "text_of",
]  # fmt: skip

Json = dict[str, Any]

ORIGINAL = "04000561"
STUDY_UID, SERIES_UID = "0020000D", "0020000E"
_MODIFYING_SYSTEM = "SANGLOC"
_MAX_VALUE = 1_024  # characters


class Attribute(NamedTuple):
    """One attribute that may be corrected."""

    tag: str
    vr: str
    column: str = ""  # of the level's table; '' where the index does not keep it


PATIENT = {
    "PatientName": Attribute("00100010", "PN", "patient_name"),
    "PatientID": Attribute("00100020", "LO", "patient_id"),
    "IssuerOfPatientID": Attribute("00100021", "LO", "issuer"),
    "PatientBirthDate": Attribute("00100030", "DA", "patient_birth_date"),
    "PatientBirthTime": Attribute("00100032", "TM"),
    "PatientSex": Attribute("00100040", "CS", "patient_sex"),
    "OtherPatientIDs": Attribute("00101000", "LO"),
    "OtherPatientNames": Attribute("00101001", "PN"),
    "PatientBirthName": Attribute("00101005", "PN"),
    "PatientAddress": Attribute("00101040", "LO"),
    "PatientMotherBirthName": Attribute("00101060", "PN"),
    "PatientTelephoneNumbers": Attribute("00102154", "SH"),
    "EthnicGroup": Attribute("00102160", "SH"),
    "PatientComments": Attribute("00104000", "LT"),
}
STUDY = {
    "StudyDate": Attribute("00080020", "DA", "study_date"),
    "StudyTime": Attribute("00080030", "TM", "study_time"),
    "AccessionNumber": Attribute("00080050", "SH", "accession_number"),
    "ReferringPhysicianName": Attribute("00080090", "PN", "referring_physician"),
    "StudyDescription": Attribute("00081030", "LO", "description"),
    "NameOfPhysiciansReadingStudy": Attribute("00081060", "PN"),
    "AdmittingDiagnosesDescription": Attribute("00081080", "LO"),
    "PatientAge": Attribute("00101010", "AS", "patient_age"),
    "PatientSize": Attribute("00101020", "DS"),
    "PatientWeight": Attribute("00101030", "DS"),
    "Occupation": Attribute("00102180", "SH"),
    "AdditionalPatientHistory": Attribute("001021B0", "LT"),
    "StudyID": Attribute("00200010", "SH", "study_id"),
}
SERIES = {
    "SeriesDate": Attribute("00080021", "DA", "series_date"),
    "SeriesTime": Attribute("00080031", "TM", "series_time"),
    "Modality": Attribute("00080060", "CS", "modality"),
    "InstitutionName": Attribute("00080080", "LO", "institution_name"),
    "StationName": Attribute("00081010", "SH", "station_name"),
    "SeriesDescription": Attribute("0008103E", "LO", "description"),
    "PerformingPhysicianName": Attribute("00081050", "PN", "performing_physician"),
    "OperatorsName": Attribute("00081070", "PN"),
    "BodyPartExamined": Attribute("00180015", "CS", "body_part"),
    "ProtocolName": Attribute("00181030", "LO", "protocol_name"),
    "SeriesNumber": Attribute("00200011", "IS", "series_number"),
    "Laterality": Attribute("00200060", "CS", "laterality"),
}
# What would still tell of the person whose study this is not.
OTHER_PERSON = (
    "PatientBirthTime", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName", "PatientAddress",
    "PatientMotherBirthName", "PatientTelephoneNumbers", "EthnicGroup", "PatientComments",
)  # fmt: skip
_NEVER_EMPTY = {"Modality"}  # type 1 (PS3.3 C.7.3.1)


def parse(given: Mapping[str, str], allowed: Mapping[str, Attribute]) -> dict[str, str]:
    """Values by keyword, checked against their VRs (PS3.5 6.2); '' empties an attribute.

    Raises:
        InvalidInput: an attribute that may not be corrected here, or a value that its VR does not allow.
    """
    if not given:
        raise InvalidInput("No attribute is given.")
    parsed = {}
    for keyword, text in given.items():
        if keyword not in allowed:
            raise InvalidInput(f"{keyword[:64]} cannot be changed here; these can: {', '.join(sorted(allowed))}.")
        if len(text) > _MAX_VALUE or any(c < " " and c not in "\r\n\t\f" for c in text):
            raise InvalidInput(
                f"The value of {keyword} is longer than {_MAX_VALUE} characters or has control characters."
            )
        value = text.strip()
        if not value and keyword in _NEVER_EMPTY:
            raise InvalidInput(f"{keyword} cannot be empty.")
        _check(keyword, allowed[keyword].vr, value)
        parsed[keyword] = value
    return parsed


def _check(keyword: str, vr: str, text: str) -> None:
    try:
        text.encode()
        if vr == "PN" and (text.count("=") > 2 or any(group.count("^") > 4 for group in text.split("="))):
            raise ValueError("three groups of five components at most")
        for value in text.split("\\") if vr not in ("LT", "ST", "UT") else [text]:
            validate_value(vr, value, RAISE)
        if vr == "DA" and text:
            _date(text)
        if vr == "IS" and text:
            int(text)
        if vr not in ("PN", "LT", "LO", "SH") and "\\" in text:
            raise ValueError("one value only")
    except ValueError as error:
        raise InvalidInput(f"{keyword} cannot have this value (VR {vr}, PS3.5 6.2): {type(error).__name__}.") from error


def json_value(vr: str, text: str) -> Json:
    """One attribute in DICOM JSON; backslashes separate values."""
    if not text:
        return {"vr": vr}
    values = [text] if vr in ("LT", "ST", "UT") else text.split("\\")
    return {"vr": vr, "Value": [_one(vr, value) for value in values]}


def _one(vr: str, value: str) -> Any:
    if vr == "PN":
        groups = zip(("Alphabetic", "Ideographic", "Phonetic"), value.split("="), strict=False)
        return {name: group for name, group in groups if group}
    if vr == "IS":
        return int(value)
    return float(value) if vr == "DS" else value


def column_value(attribute: Attribute, text: str) -> str | int | None:
    """The value as its column keeps it, in JSON: ISO dates, numbers, names without empty ends."""
    if attribute.vr == "DA":
        return _date(text).isoformat() if text else None
    if attribute.vr == "IS":
        return int(text) if text else None
    if attribute.vr == "PN":
        groups = (group.strip().rstrip("^ ") for group in text.split("\\", maxsplit=1)[0].split("="))
        return "=".join(groups).rstrip("=")
    return text


def text_of(attribute: Attribute, value: Any) -> str:
    """The other way: a column's value as DICOM text."""
    if value is None:
        return ""
    return str(value).replace("-", "") if attribute.vr == "DA" else str(value)


def identity(columns: Mapping[str, Any], allowed: Mapping[str, Attribute]) -> Json:
    """What the columns of a row say, as attributes."""
    return {
        attribute.tag: json_value(attribute.vr, text_of(attribute, columns[attribute.column]))
        for attribute in allowed.values()
        if attribute.column in columns
    }


def shown(values: Mapping[str, str], allowed: Mapping[str, Attribute]) -> Json:
    """Parsed values as attributes."""
    return {allowed[keyword].tag: json_value(allowed[keyword].vr, text) for keyword, text in values.items()}


def original_item(before: Json, reason: str = "CORRECT") -> Json:
    """One item of Original Attributes Sequence: what stood there until now (PS3.3 table C.12.1.1.9-1)."""
    now = dt.datetime.now(dt.UTC).strftime("%Y%m%d%H%M%S.%f+0000")
    return {
        "04000550": {"vr": "SQ", "Value": [dict(sorted(before.items()))]},
        "04000562": {"vr": "DT", "Value": [now]},
        "04000563": {"vr": "LO", "Value": [_MODIFYING_SYSTEM]},
        "04000564": {"vr": "LO"},
        "04000565": {"vr": "CS", "Value": [reason]},
    }


def _date(text: str) -> dt.date:
    if len(text) != 8:
        raise ValueError(text)
    return dt.date(int(text[:4]), int(text[4:6]), int(text[6:]))
