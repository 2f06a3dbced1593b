"""A plain reading of PS3.4 C.2.2.2 over rows in memory, for comparison with what SQL finds."""

from __future__ import annotations

import datetime as dt
import itertools
import re
from types import SimpleNamespace
from typing import Any

from storage import names
from storage.attributes import PAIRS, Kind, Level
from storage.criteria import Condition, Dates, Empty, Items, Moments, Names, Numbers, Patterns, Query, Texts

FIELDS = {
    "PatientName": "patient_name", "PatientID": "patient_id", "IssuerOfPatientID": "issuer",
    "PatientBirthDate": "patient_birth_date", "PatientSex": "patient_sex", "OtherPatientIDs": "other_patient_ids",
    "OtherPatientIDsSequence": "other_patient_ids", "StudyInstanceUID": "study_uid", "StudyDate": "study_date",
    "StudyTime": "study_time", "AccessionNumber": "accession_number", "StudyID": "study_id",
    "StudyDescription": "study_description", "ReferringPhysicianName": "referring_physician",
    "SeriesInstanceUID": "series_uid", "Modality": "modality", "SeriesNumber": "series_number",
    "SeriesDescription": "series_description", "SeriesDate": "series_date", "SeriesTime": "series_time",
    "BodyPartExamined": "body_part", "SOPInstanceUID": "sop_uid", "InstanceNumber": "instance_number", "Rows": "rows",
    "SOPClassUID": "sop_class", "ImageType": "image_type", "RequestAttributesSequence": "request_attributes",
}  # fmt: skip
REQUEST_FIELDS = {
    "ScheduledProcedureStepID": "scheduled_step", "RequestedProcedureID": "requested_procedure",
    "AccessionNumber": "accession_number",
}  # fmt: skip


def glob(pattern: str) -> re.Pattern[str]:
    return re.compile("".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern), re.DOTALL)


def time_of(sent: str) -> dt.time | None:
    digits = sent.replace(":", "")
    for form in ("%H%M%S.%f", "%H%M%S", "%H%M", "%H"):
        try:
            found = dt.datetime.strptime(digits, form)
        except ValueError:
            continue
        if len(digits.partition(".")[0]) == len(form.replace(".%f", "")):
            return found.time()
    return None


def moment_of(one: SimpleNamespace, date: str, time: str, zone: int | None) -> dt.datetime | None:
    day, at = getattr(one, date), time_of(getattr(one, time))
    if day is None:
        return None
    moment = dt.datetime.combine(day, at or dt.time())
    offset = re.fullmatch(r"([+-])(\d\d)(\d\d)", one.timezone_offset)
    if zone is None or offset is None or at is None:
        return moment
    minutes = (int(offset[2]) * 60 + int(offset[3])) * (-1 if offset[1] == "-" else 1)
    return moment + dt.timedelta(minutes=zone - minutes)


def in_range(value: Any, first: Any, last: Any) -> bool:
    return value is not None and (first is None or value >= first) and (last is None or value <= last)


def matches_text(value: str, match: Texts | Patterns) -> bool:
    if isinstance(match, Texts):
        return value in match.values
    return any(glob(pattern).fullmatch(value) for pattern in match.values)


def matches_name(value: str, match: Names) -> bool:
    if match.fuzzy:
        return any(
            all(
                any(has.startswith(word) for has in names.fold(value.replace("=", " ")).split())
                for word in names.words(asked)
            )
            for asked in match.values
        )
    return any(matches_group(value, pattern) for pattern in match.values)


def matches_group(value: str, pattern: str) -> bool:
    """Folded groups, component by component, without what is empty at the end."""
    asked, has = pattern.split("="), [*value.split("="), "", ""][:3]
    if len(asked) == 1:
        return any(
            bare(asked[0]).fullmatch(bare_text(one)) for one in (has[:1] if names.fold(pattern).isascii() else has)
        )
    return all(bare(a).fullmatch(bare_text(h)) for a, h in zip(asked, has, strict=False) if a.strip("*^ "))


def bare_text(group: str) -> str:
    return names.fold(group) + " "


def bare(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"([*?]+)", pattern)
    out = ""
    for n, part in enumerate(parts):
        if n % 2:
            out += part
            continue
        folded = names.fold(part)
        lead = " " if part and not part[0].isalnum() and out else ""
        trail = " " if part and not part[-1].isalnum() and folded else ""
        out += lead + folded + trail if folded else lead
    return glob(out.rstrip() + " " if not out.endswith("*") else out)


def value_of(one: SimpleNamespace, keyword: str, person: dict[str, Any] | None) -> Any:
    field = FIELDS[keyword]
    return person[field] if person is not None and field in person else getattr(one, field)


def inside(item: Any, keyword: str) -> str:
    return item if isinstance(item, str) else getattr(item, REQUEST_FIELDS[keyword])


def holds(  # noqa: PLR0911 - one line for each kind of matching
    one: SimpleNamespace, condition: Condition, zone: int | None, person: dict[str, Any] | None
) -> bool:
    attribute, match = condition.attribute, condition.match
    value = value_of(one, attribute.keyword, person)
    pair = next((pair for pair in PAIRS.values() if attribute in pair), None)
    if isinstance(match, Empty):
        return value in (None, "", ())
    if isinstance(match, Items):
        return any(all(matches_text(inside(each, key), inner) for key, inner in match.matches) for each in value)  # type: ignore[arg-type]
    if isinstance(match, Names):
        return matches_name(value, match)
    if isinstance(match, Numbers):
        return value in match.values
    if isinstance(match, Texts | Patterns):
        texts = value if isinstance(value, tuple) else value.split("\\") if attribute.kind is Kind.JOINED else (value,)
        return any(matches_text(each, match) for each in texts)
    if pair is None:
        return in_range(value, match.first, match.last)
    moment = moment_of(one, *(FIELDS[each.keyword] for each in pair), zone)
    if isinstance(match, Moments):
        return in_range(moment, match.first, match.last)
    if isinstance(match, Dates):
        return in_range(moment and moment.date(), match.first, match.last)
    if zone is None:
        return in_range(time_of(value), match.first, match.last)
    return in_range(moment and moment.time(), match.first, match.last)


def expected(rows: dict[int, list[SimpleNamespace]], query: Query, people: dict[int, dict[str, Any]]) -> set[int]:
    """A row matches when all conditions of its level and above hold, and below, one part of each level has its own."""
    found = set()
    for key, below in rows.items():
        person = people[key] if query.level is Level.PATIENT else None
        by_level = itertools.groupby(
            sorted(query.conditions, key=lambda each: max(each.attribute.level, query.level)),
            key=lambda each: max(each.attribute.level, query.level),
        )
        if all(
            any(
                all(holds(one, each, query.zone, person if level is Level.PATIENT else None) for each in asked)
                for one in below
            )
            for level, asked in ((level, list(group)) for level, group in by_level)
        ):
            found.add(key)
    return found
