"""The DICOM JSON model (PS3.18 F) of the answers of a query."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pacs.identifiers import Elements

__all__ = ["json_model"]

_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


def json_model(elements: Elements) -> dict[str, Any]:
    """The attributes in the order of their tags; those without a value have only their VR (PS3.18 F.2.5)."""
    return {_key(tag): _attribute(*elements[tag]) for tag in sorted(elements)}


@lru_cache(maxsize=1024)
def _key(tag: int) -> str:
    return f"{tag:08X}"


def _attribute(vr: str, values: Any) -> dict[str, Any]:
    if not values:
        return {"vr": vr}
    if vr == "PN":
        return {"vr": vr, "Value": [_name(value) for value in values]}
    if vr == "SQ":
        return {"vr": vr, "Value": [json_model(item) for item in values]}
    return {"vr": vr, "Value": [None if value == "" else value for value in values]}


def _name(value: str) -> dict[str, str] | None:
    """The component groups that are not empty (PS3.18 F.2.2)."""
    groups = {name: group for name, group in zip(_GROUPS, value.split("="), strict=False) if group}
    return groups or None
