"""The DICOM JSON model (PS3.18 F) of the answers of a query."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any

from pacs.answers import converter
from pacs.identifiers import Elements
from storage.attributes import Attribute

__all__ = ["json_model", "row_model"]

_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


def json_model(elements: Elements) -> dict[str, Any]:
    """The attributes in the order of their tags; those without a value have only their VR (PS3.18 F.2.5)."""
    return {_key(tag): _attribute(*elements[tag]) for tag in sorted(elements)}


def row_model(attributes: Sequence[Attribute], if_known: Collection[int]) -> Callable[[Sequence[Any]], dict[str, Any]]:
    """From rows of these attributes to what `json_model` gives, in half of the time: all but the values is ready.

    Those of `if_known` are left out where they have no value.
    """
    parts = [
        (_key(one.tag), place, _writer(one, None if one.tag in if_known else {"vr": one.vr}))
        for place, one in sorted(enumerate(attributes), key=lambda pair: pair[1].tag)
    ]

    def model(row: Sequence[Any]) -> dict[str, Any]:
        return {key: made for key, place, write in parts if (made := write(row[place])) is not None}

    return model


def _writer(attribute: Attribute, empty: dict[str, Any] | None) -> Callable[[Any], dict[str, Any] | None]:
    convert, vr = converter(attribute), attribute.vr

    def write(value: Any) -> dict[str, Any] | None:
        return _attribute(vr, values) if (values := convert(value)) else empty

    return write


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
    if "" in values:
        values = [None if value == "" else value for value in values]
    return {"vr": vr, "Value": list(values)}


def _name(value: str) -> dict[str, str] | None:
    """The component groups that are not empty (PS3.18 F.2.2)."""
    if "=" not in value:
        return {"Alphabetic": value} if value else None
    groups = {name: group for name, group in zip(_GROUPS, value.split("="), strict=False) if group}
    return groups or None
