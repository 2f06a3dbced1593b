"""From the parameters of a QIDO-RS request to keys (PS3.18 8.3.4, 10.6.1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pydicom.datadict import tag_for_keyword

from pacs.identifiers import Element, vr_of
from storage.errors import InvalidInput

__all__ = ["Asked", "read"]

_MAX_KEYS = 200
_MAX_DEPTH = 4  # of a path of sequences
_BACKSLASHED = frozenset({"LT", "ST", "UR", "UT"})  # a backslash is text
_COMMAS = frozenset({"CS", "UI"})  # a comma cannot be in a value, so that it separates values
_SWITCHES = {"fuzzymatching": "fuzzy", "emptyvaluematching": "empty_values", "multiplevaluematching": "multiple_values"}
_ELSEWHERE = frozenset({"accept", "charset"})  # PS3.18 8.3.3: judged where media types are


@dataclass(slots=True)
class Asked:
    """What a request asks for."""

    keys: dict[int, Element] = field(default_factory=dict)
    include: set[int] = field(default_factory=set)  # tags to return besides
    include_all: bool = False
    limit: int | None = None
    offset: int = 0
    fuzzy: bool = False
    empty_values: bool = False
    multiple_values: bool = False


def read(parameters: Iterable[tuple[str, str]]) -> Asked:
    """What these parameters ask for, in the order of the query.

    Raises `InvalidInput`, also for a name that is neither a parameter nor an attribute of the data dictionary: a filter
    that is misspelt must not show every patient.
    """
    asked = Asked()
    values: dict[tuple[int, ...], list[str]] = {}
    for name, value in parameters:
        if name == "includefield":
            _include(asked, value)
        elif name in _SWITCHES:
            setattr(asked, _SWITCHES[name], _switch(name, value))
        elif name in ("limit", "offset"):
            setattr(asked, name, _count(name, value))
        elif name not in _ELSEWHERE:
            values.setdefault(_path(name), []).append(value)
    if len(values) > _MAX_KEYS:
        raise InvalidInput(f"There are more than {_MAX_KEYS} attributes to match.")
    for path, given in values.items():
        _put(asked.keys, path, given)
    return asked


def _include(asked: Asked, value: str) -> None:
    for name in value.split(","):
        if name == "all":
            asked.include_all = True
        elif name:
            asked.include.add(_path(name)[0])


def _switch(name: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise InvalidInput(f"{name} is true or false.")
    return value == "true"


def _count(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 9):
        raise InvalidInput(f"{name} is a number from 0 to 999999999.")
    return int(value)


def _path(name: str) -> tuple[int, ...]:
    """The tags of an attribute and of the sequences it is in."""
    parts = name.split(".")
    if len(parts) > _MAX_DEPTH:
        raise InvalidInput("A path of attributes is too long.")
    return tuple(_tag(part) for part in parts)


def _tag(name: str) -> int:
    if len(name) == 8 and all(character in "0123456789abcdefABCDEF" for character in name):
        return int(name, 16)
    tag = tag_for_keyword(name) if name.isascii() and name.isalnum() else None
    if tag is None:
        shown = name if name.isascii() and name.isalnum() and len(name) <= 64 else "a name"
        raise InvalidInput(f"There is no attribute and no parameter {shown}.")
    return int(tag)


def _put(keys: dict[int, Element], path: tuple[int, ...], given: list[str]) -> None:
    """Add a key, below the one item of each sequence of its path."""
    inside = keys
    for tag in path[:-1]:
        sequence = inside.get(tag)
        if sequence is None or sequence.vr != "SQ":
            sequence = inside[tag] = Element("SQ", [{}])
        inside = sequence.values[0]
    tag = path[-1]
    vr = vr_of(tag)
    if vr == "SQ":
        if any(given):
            raise InvalidInput("A sequence is matched by the attributes in it.")
        inside.setdefault(tag, Element("SQ", [{}]))
        return
    inside[tag] = Element(vr, tuple(one for value in given for one in _split(vr, value)))


def _split(vr: str, value: str) -> list[str]:
    if vr in _COMMAS:
        value = value.replace(",", "\\")
    parts = [value] if vr in _BACKSLASHED else value.split("\\")
    return [part.strip(" \0") for part in parts]
