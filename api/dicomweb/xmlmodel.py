"""The Native DICOM Model (PS3.19 A.1) on its way in: from XML to the DICOM JSON model, which is then checked as such.

The document is read by events, and what the model does not have ends it at once: a document type, and with it every
entity, elements and attributes of other kinds, nesting without end. So its size bounds what it costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from xml.parsers import expat

from api.dicomweb.jsonmodel import Model
from storage.errors import InvalidDataSet

__all__ = ["data_set"]

_NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_COMPONENTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_INSIDE: Final[Mapping[str, frozenset[str]]] = {
    "": frozenset({"NativeDicomModel"}),
    "NativeDicomModel": frozenset({"DicomAttribute"}),
    "Item": frozenset({"DicomAttribute"}),
    "DicomAttribute": frozenset({"Value", "Item", "PersonName", "BulkData", "InlineBinary"}),
    "PersonName": frozenset(_GROUPS),
    **dict.fromkeys(_GROUPS, frozenset(_COMPONENTS)),
}
_WITH_TEXT = frozenset({"Value", "InlineBinary", *_COMPONENTS})
_MAX_DEPTH = 17 * 2 + 4  # elements within elements: sequences as deep as the checks behind allow
_MAX_EMPTY = 10_000  # values of a document that are only told by the numbers of their neighbours
_WHOLE = frozenset({"SL", "SS", "SV", "UL", "US", "UV"})
_FLOAT = frozenset({"FD", "FL"})
_TRIMMED = _WHOLE | _FLOAT | {"AT", "DS", "IS", "UI", "DA", "TM", "DT", "CS", "AS", "AE"}
_MAX_DS_CHARACTERS = 16
_CREATORS = range(0x10, 0x100)  # elements of a private group that name a creator (PS3.5 7.8.1)


def data_set(document: bytes) -> Model:
    """The data set of one document in the DICOM JSON model, not yet checked. Raises `InvalidDataSet`."""
    reader = _Reader()
    try:
        reader.parser.Parse(document, True)
    except expat.ExpatError as error:
        raise InvalidDataSet(f"This is no XML: {expat.ErrorString(error.code)} in line {error.lineno}") from None
    except (LookupError, ValueError):  # of the encoding that it names
        raise InvalidDataSet("The XML document is not in an encoding that is known") from None
    return reader.model


@dataclass(slots=True)
class _Open:
    """An element that is open."""

    name: str
    attributes: Mapping[str, str]
    values: list[Any] = field(default_factory=list)  # of an attribute
    members: dict[str, Any] = field(default_factory=dict)  # attributes of a data set, groups and components of a name
    private: list[tuple[str, str, Model]] = field(default_factory=list)  # creator, tag and attribute
    text: list[str] = field(default_factory=list)


class _Reader:
    def __init__(self) -> None:
        self.model: Model = {}
        self._open = [_Open("", {})]
        self._empty_left = _MAX_EMPTY
        self.parser = expat.ParserCreate(namespace_separator="|")
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._refuse_doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self._ends: Mapping[str, Callable[[_Open, _Open], None]] = {
            "NativeDicomModel": self._end_model,
            "Item": self._end_item,
            "DicomAttribute": self._end_attribute,
            "Value": self._end_value,
            "InlineBinary": self._end_inline,
            "BulkData": self._end_bulk,
            "PersonName": self._end_name,
            **dict.fromkeys(_GROUPS, self._end_group),
            **dict.fromkeys(_COMPONENTS, self._end_component),
        }

    def _refuse_doctype(self, *_: object) -> None:
        raise InvalidDataSet("A document type and its entities are not taken")

    def _start(self, qualified: str, attributes: dict[str, str]) -> None:
        namespace, _, name = qualified.rpartition("|")
        above = self._open[-1]
        if namespace not in ("", _NAMESPACE) or name not in _INSIDE.get(above.name, ()):
            raise InvalidDataSet(f"Line {self.parser.CurrentLineNumber}: there is no such element in the native model")
        if len(self._open) > _MAX_DEPTH:
            raise InvalidDataSet("Sequences lie too deep in each other")
        self._open.append(_Open(name, attributes))

    def _text(self, text: str) -> None:
        if self._open[-1].name in _WITH_TEXT:
            self._open[-1].text.append(text)
        elif text.strip():
            raise InvalidDataSet(f"Line {self.parser.CurrentLineNumber}: there is text outside of values")

    def _end(self, _: str) -> None:
        closed = self._open.pop()
        self._ends[closed.name](closed, self._open[-1])

    # ---- what becomes of each element in the one above it

    def _end_model(self, closed: _Open, _: _Open) -> None:
        self.model = _members(closed)

    def _end_item(self, closed: _Open, above: _Open) -> None:
        self._place(closed, above, _members(closed))

    def _end_attribute(self, closed: _Open, above: _Open) -> None:
        tag, vr = closed.attributes.get("tag", "").upper(), closed.attributes.get("vr", "")
        if tag in above.members:
            raise InvalidDataSet(f"{tag[:8]}: it is there twice")
        attribute: Model = {"vr": vr, **closed.members}
        if closed.values:
            attribute["Value"] = closed.values
        creator = closed.attributes.get("privateCreator", "")
        if creator:
            above.private.append((creator, tag, attribute))
        else:
            above.members[tag] = attribute

    def _end_value(self, closed: _Open, above: _Open) -> None:
        self._place(closed, above, _typed(above.attributes.get("vr", ""), "".join(closed.text)))

    def _end_inline(self, closed: _Open, above: _Open) -> None:
        above.members["InlineBinary"] = "".join("".join(closed.text).split())

    def _end_bulk(self, closed: _Open, above: _Open) -> None:
        above.members["BulkDataURI"] = closed.attributes.get("uri") or closed.attributes.get("uuid", "")

    def _end_name(self, closed: _Open, above: _Open) -> None:
        self._place(closed, above, closed.members)

    def _end_group(self, closed: _Open, above: _Open) -> None:
        above.members[closed.name] = "^".join(closed.members.get(one, "") for one in _COMPONENTS).rstrip("^")

    def _end_component(self, closed: _Open, above: _Open) -> None:
        above.members[closed.name] = "".join(closed.text)

    def _place(self, closed: _Open, above: _Open, value: Any) -> None:
        """Put a value where its number says; between numbers are empty values (PS3.19 A.1.5)."""
        text = closed.attributes.get("number", "")
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
        missing = number - 1 - len(above.values)
        self._empty_left -= missing
        if missing < 0 or self._empty_left < 0:
            raise InvalidDataSet(f"Line {self.parser.CurrentLineNumber}: values are numbered from 1 on, in their order")
        above.values += [{} if closed.name == "Item" else None] * missing
        above.values.append(value)


def _typed(vr: str, text: str) -> Any:
    """A value in the JSON type of its VR; as text where it is none, which the checks behind refuse."""
    if vr in _TRIMMED:
        text = text.strip()
    number = vr in _FLOAT or (vr == "DS" and len(text) > _MAX_DS_CHARACTERS)  # who writes DS shortens a number
    try:
        return int(text) if vr in _WHOLE else float(text) if number else text
    except ValueError:
        return text


def _members(closed: _Open) -> Model:
    """The attributes of a data set; private ones that name their creator get a block of its group (PS3.5 7.8.1)."""
    found = closed.members
    blocks: dict[tuple[str, str], int] = {}
    for creator, tag, attribute in closed.private:
        try:
            group, element = tag[:4], int(tag[4:], 16)
        except ValueError:
            raise InvalidDataSet("A private attribute has a tag of eight hexadecimal digits") from None
        at = blocks.get((group, creator))
        if at is None:
            at = blocks[group, creator] = _block(found, group, creator, element >> 8)
            found[f"{group}00{at:02X}"] = {"vr": "LO", "Value": [creator]}
        place = f"{group}{at:02X}{element & 0xFF:02X}"
        if place in found:
            raise InvalidDataSet(f"{place}: it is there twice")
        found[place] = attribute
    return found


def _block(found: Model, group: str, creator: str, wanted: int) -> int:
    """The block of a creator: the one that it has, the one that its tag names, or the first free one."""
    named = {at: found.get(f"{group}00{at:02X}") for at in _CREATORS}
    own = [at for at, one in named.items() if one is not None and one.get("Value") == [creator]]
    free = [at for at, one in named.items() if one is None]
    if own:
        return own[0]
    if not free:
        raise InvalidDataSet(f"{group}: there are more private creators than a group has blocks")
    return wanted if wanted in free else free[0]
