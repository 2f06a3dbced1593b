"""Answers to HL7 messages: MSH, MSA, and ERR where something is wrong (HL7 v2.5 2.9, 2.15)."""

from __future__ import annotations

import datetime as dt
import uuid

from pacs.hl7.message import Failure, Header

__all__ = ["acknowledgment", "wants_answer"]

_NO_HEADER = Header("|", "^~\\&", ())
_TEXT = 200  # characters of a text for people
_NEW_ERR = (2, 5)  # since version 2.5 ERR has a field for each part


def wants_answer(header: Header) -> bool:
    """Enhanced mode may ask for none at all (MSH-15 and MSH-16 NE)."""
    return not header.field(15).strip().upper() == header.field(16).strip().upper() == "NE"


def acknowledgment(header: Header | None, text: str = "", failure: Failure | None = None) -> bytes:
    """The bytes of an ACK. Without a header, or with one that cannot be read, it goes to nobody in particular.

    `text` is for a person.
    """
    asked = header if header is not None and header.is_plain else _NO_HEADER
    separators = asked.separator + asked.encoding[:4].ljust(4)
    code: str = failure.code if failure is not None else "AA"
    if asked.field(15) and asked.field(16).strip().upper() in ("", "NE"):
        code = f"C{code[1]}"  # enhanced mode: the accept acknowledgment is the only one that is wanted
    now = dt.datetime.now().astimezone()
    event = asked.kind[1]
    kind = separators[1].join(("ACK", event, "ACK")) if event else "ACK"
    msh = ["MSH", asked.encoding, "SANGLOC", *(asked.field(n) for n in (6, 3, 4)), f"{now:%Y%m%d%H%M%S%z}", "", kind,
           uuid.uuid4().hex[:20], asked.field(11) or "P", asked.field(12) or "2.5", *[""] * 5,
           asked.field(18)]  # fmt: skip
    said = _escaped(str(failure) if failure is not None else text, separators)
    segments = [msh, ["MSA", code, asked.field(10), said]]
    if failure is not None:
        segments.append(_err(failure, asked, separators, said))
    lines = (asked.separator.join(fields).rstrip(asked.separator) for fields in segments)
    # What was given back is as it came: the header holds bytes as Latin-1, and our own words are ASCII.
    return ("\r".join(lines) + "\r").encode("latin-1", "replace")


def _err(failure: Failure, asked: Header, separators: str, said: str) -> list[str]:
    component = separators[1]
    location = failure.location.replace("^", component)
    coded = component.join((str(failure.number), _ERRORS.get(failure.number, ""), "HL70357"))
    if _version(asked) < _NEW_ERR:
        inner = coded.replace(component, separators[4])
        parts = [*failure.location.split("^"), "", "", ""][:3]
        return ["ERR", component.join((*parts, inner))]
    return ["ERR", "", location, coded, "E", "", "", "", said]


def _version(header: Header) -> tuple[int, int]:
    first, second = (*header.field(12).split(header.encoding[:1] or "^")[0].split("."), "", "")[:2]
    return (int(first), int(second)) if first.isdigit() and second.isdigit() else _NEW_ERR


def _escaped(text: str, separators: str) -> str:
    names = dict(zip(separators, "FSRET", strict=False))
    escape = separators[3]
    plain = (f"{escape}{names[c]}{escape}" if c in names else c if c.isprintable() else " " for c in text[:_TEXT])
    return "".join(plain)


_ERRORS = {
    100: "Segment sequence error",
    101: "Required field missing",
    102: "Data type error",
    103: "Table value not found",
    200: "Unsupported message type",
    201: "Unsupported event code",
    202: "Unsupported processing id",
    203: "Unsupported version id",
    204: "Unknown key identifier",
    205: "Duplicate key identifier",
    206: "Application record locked",
    207: "Application internal error",
}
