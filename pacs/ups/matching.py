"""Matching of workitems against the keys of a search or of a filtered subscription (PS3.4 CC.2.8, PS3.18 11.9)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pacs import keymatching
from pacs.identifiers import Element, Elements
from pacs.query_parameters import Asked, read
from pacs.ups.attributes import STATE, moment
from storage.errors import InvalidInput
from storage.workitems import Criteria

__all__ = ["criteria_of", "fits", "matches", "read_filter"]

_UID, _SOP_UID, _PATIENT_ID, _INPUT, _STUDY = 0x00080018, 0x00001000, 0x00100020, 0x00404021, 0x0020000D
_STATE = int(STATE, 16)


def read_filter(parameters: Iterable[tuple[str, str]]) -> Asked:
    """The keys; raises `InvalidInput` for what is none, and for values that cannot be matched."""
    asked = read(parameters)
    _check(asked.keys)
    return asked


def matches(attributes: Mapping[str, Any], parameters: Sequence[Sequence[str]]) -> bool:
    """Whether a workitem matches a filter that was checked when it was given."""
    return fits(attributes, read((name, value) for name, value in parameters).keys)


def fits(attributes: Mapping[str, Any], keys: Elements) -> bool:
    """Whether a workitem matches all keys."""
    return _all(keys, _elements(attributes))


def criteria_of(keys: Elements) -> Criteria:
    """What an index can tell of the keys; `fits` says the rest."""

    def plain(tag: int) -> list[str] | None:
        values = [str(value) for value in keys[tag].values] if tag in keys else []
        return values if values and not any(c in value for value in values for c in "*?") and all(values) else None

    patient = plain(_PATIENT_ID)
    inputs = keys[_INPUT].values[0] if _INPUT in keys and keys[_INPUT].values else {}
    studies = [str(value) for value in inputs[_STUDY].values] if _STUDY in inputs else []
    return Criteria(
        workitem_uids=plain(_UID) or plain(_SOP_UID),
        states=plain(_STATE),
        patient_id=patient[0] if patient and len(patient) == 1 else None,
        study_uids=studies or None,
    )


def _check(keys: Elements) -> None:
    for element in keys.values():
        if element.vr == "SQ":
            for item in element.values:
                _check(item)
        elif element.vr == "DT":
            for value in element.values:
                _span(str(value))
        elif element.values:
            keymatching.matches(element, Element(element.vr, ("",)))  # raises where a date or time is none


def _all(keys: Elements, found: Elements) -> bool:
    return all(_one(key, found.get(tag)) for tag, key in keys.items())


def _one(key: Element, found: Element | None) -> bool:
    values = found.values if found is not None else ()
    if key.vr == "SQ" and key.values:
        item = key.values[0]
        return not _asks(item) or any(_all(item, one) for one in values)
    if key.vr == "DT" and any(key.values):
        first, last = _span(str(key.values[0]))
        return any(first <= moment(str(value)).timestamp() <= last for value in values)
    return keymatching.matches(key, found) if any(key.values) else True


def _asks(item: Elements) -> bool:
    return any(_asks(key.values[0]) if key.vr == "SQ" and key.values else any(key.values) for key in item.values())


def _span(value: str) -> tuple[float, float]:
    """First and last moment of a DT or a range of them, in seconds since 1970 (PS3.4 C.2.2.2.5)."""
    first, dash, last = _halves(value)
    if not first and not last:
        raise InvalidInput("A range of moments has a first or a last one (PS3.4 C.2.2.2.5)")
    start = moment(first).timestamp() if first else float("-inf")
    if not dash:
        return start, _end(first)
    return start, _end(last) if last else float("inf")


def _halves(value: str) -> tuple[str, str, str]:
    """A range divided at its hyphen, which is not that of an offset from UTC west of Greenwich."""
    for at, character in enumerate(value):
        rest = value[at + 1 :]
        digits = len(rest) - len(rest.lstrip("0123456789"))
        offset = at and digits == 4 and rest[4:5] in ("", "-") and rest[:4] <= "1200"
        if character == "-" and not offset:
            return value[:at].strip(), "-", rest.strip()
    return value.strip(), "", ""


def _end(text: str) -> float:
    """The last moment that a DT of this precision may mean."""
    digits = len(text) - len(text.lstrip("0123456789"))
    length = {4: 366 * 86_400, 6: 31 * 86_400, 8: 86_400, 10: 3600, 12: 60}.get(digits, 0)
    return moment(text).timestamp() + max(0, length - 1e-6)


def _elements(attributes: Mapping[str, Any]) -> dict[int, Element]:
    found = {}
    for tag, one in attributes.items():
        vr, values = one["vr"], one.get("Value") or ()
        if vr == "SQ":
            found[int(tag, 16)] = Element(vr, [_elements(item or {}) for item in values])
        elif vr == "PN":
            groups = ("Alphabetic", "Ideographic", "Phonetic")
            names = ["=".join((value or {}).get(group, "") for group in groups).rstrip("=") for value in values]
            found[int(tag, 16)] = Element(vr, names)
        else:
            found[int(tag, 16)] = Element(vr, ["" if value is None else value for value in values])
    return found
