"""The Native DICOM Model (PS3.19 A.1) of what is in the DICOM JSON model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from pydicom.datadict import keyword_for_tag

__all__ = ["native"]

_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM" xml:space="preserve">'
)
_TAIL = "</NativeDicomModel>"
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_COMPONENTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2


def native(model: Mapping[str, Any]) -> bytes:
    """One data set as an XML document. `model` is an object of PS3.18 F.2: attributes by tag in hexadecimal."""
    return (_HEAD + "".join(_attributes(model)) + _TAIL).encode()


def _attributes(model: Mapping[str, Any]) -> Iterator[str]:
    for tag, attribute in model.items():
        keyword = _keyword(tag)
        named = f" keyword={quoteattr(keyword)}" if keyword else ""
        yield f'<DicomAttribute tag="{tag}" vr="{attribute["vr"]}"{named}>'
        if "BulkDataURI" in attribute:
            yield f"<BulkData uri={quoteattr(_text(attribute['BulkDataURI']))}/>"
        elif "InlineBinary" in attribute:
            yield f"<InlineBinary>{attribute['InlineBinary']}</InlineBinary>"
        for number, value in enumerate(attribute.get("Value", ()), 1):
            yield from _value(number, attribute["vr"], value)
        yield "</DicomAttribute>"


@lru_cache(maxsize=4096)
def _keyword(tag: str) -> str:
    return keyword_for_tag(tag)


def _value(number: int, vr: str, value: Any) -> Iterator[str]:
    """An empty value among others is left out: its neighbours' numbers tell (PS3.19 A.1.1)."""
    if vr == "SQ":
        yield f'<Item number="{number}">'
        yield from _attributes(value or {})
        yield "</Item>"
    elif value is None or value == "":
        return
    elif vr == "PN":
        yield f'<PersonName number="{number}">'
        for group in _GROUPS:
            if value.get(group):
                yield f"<{group}>{''.join(_components(value[group]))}</{group}>"
        yield "</PersonName>"
    else:
        yield f'<Value number="{number}">{_escaped(value)}</Value>'


def _components(group: str) -> Iterator[str]:
    for name, part in zip(_COMPONENTS, group.split("^"), strict=False):
        if part:
            yield f"<{name}>{_escaped(part)}</{name}>"


def _escaped(value: object) -> str:
    return escape(_text(value), {"\r": "&#13;"})


def _text(value: object) -> str:
    """Without the characters that no XML document may have."""
    return _NO_XML.sub("\ufffd", str(value))
