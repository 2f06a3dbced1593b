"""What a client accepts (RFC 9110 12.5.1, PS3.18 8.7.5), and the one form of the answer that suits it best."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fastapi import HTTPException, Request

__all__ = ["ANY_SYNTAX", "EXPLICIT", "MediaRange", "Offer", "accepted", "choose", "parse_accept"]

EXPLICIT = "1.2.840.10008.1.2.1"
"""The transfer syntax of whoever names none (PS3.18 8.7.3.5.2)."""
ANY_SYNTAX = "*"

_MAX_RANGES = 64
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z/-]+"  # with the slash, as many clients leave out the quotes around a type
_PARAMETER = re.compile(rf';\s*({_WORD})\s*=\s*("(?:[^"\\]|\\.)*"|{_WORD})\s*')
_RANGE = re.compile(rf"\s*({_WORD})\s*")
_UID = re.compile(r"[0-9.]{1,64}")


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One member of an Accept field; `kind` is in lower case, and of a multipart it is the type of the parts."""

    kind: str  # such as application/dicom, image/*, */*
    multipart: bool | None  # None: either
    syntax: str | None  # transfer syntax UID, '*', or None
    quality: float

    def takes(self, offer: Offer) -> bool:
        """Whether the offer is in this range."""
        if self.multipart is not None and self.multipart != offer.multipart:
            return False
        if self.kind in ("*/*", offer.kind, *offer.aliases):
            return True
        return self.kind.endswith("/*") and offer.kind.startswith(self.kind[:-1])


@dataclass(frozen=True, slots=True)
class Offer:
    """One form in which a resource can be given."""

    kind: str
    multipart: bool = False
    aliases: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f'multipart/related; type="{self.kind}"' if self.multipart else self.kind


def parse_accept(text: str) -> list[MediaRange]:
    """The ranges of an Accept field, the best first; what is no media range is passed over."""
    ranges = [one for member in _members(text)[:_MAX_RANGES] if (one := _range(member)) is not None]
    return sorted(ranges, key=lambda one: -one.quality)


def accepted(request: Request) -> list[MediaRange]:
    """What the request accepts: its query parameter `accept` before its header (PS3.18 8.3.3.1), else anything."""
    # A plus sign in a query means a space, and few people know that.
    asked = [one.replace("dicom ", "dicom+") for one in request.query_params.getlist("accept")]
    return parse_accept(",".join(asked or request.headers.getlist("accept")) or "*/*")


def choose(ranges: Sequence[MediaRange], offers: Sequence[Offer]) -> tuple[Offer, list[str]]:
    """The offer that suits best, and the transfer syntaxes that may be in it, the most wanted first.

    Raises:
        HTTPException: 406, none of the offers is acceptable.
    """
    refused = [one for one in ranges if one.quality == 0 and (one.kind, one.multipart) != ("*/*", None)]
    open_offers = [offer for offer in offers if not any(one.takes(offer) for one in refused)]
    for best in ranges:
        for offer in open_offers:
            if best.quality > 0 and best.takes(offer):
                return offer, _syntaxes(ranges, offer)
    raise HTTPException(406, "acceptable here: " + ", ".join(map(str, offers)))


def _syntaxes(ranges: Iterable[MediaRange], offer: Offer) -> list[str]:
    named = [one.syntax for one in ranges if one.quality > 0 and one.takes(offer) and one.syntax is not None]
    return list(dict.fromkeys(named))


def _members(text: str) -> list[str]:
    """The members of a comma-separated field; commas in quotes do not count."""
    members, start, quoted, escaped = [], 0, False, False
    for at, character in enumerate(text):
        if escaped:
            escaped = False
        elif quoted and character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            members.append(text[start:at])
            start = at + 1
    return [*members, text[start:]]


def _range(member: str) -> MediaRange | None:
    found = _RANGE.match(member)
    if found is None or found[1].count("/") != 1:
        return None
    at, parameters = found.end(), {}
    while piece := _PARAMETER.match(member, at):
        value = piece[2]
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        parameters[piece[1].lower()] = value
        at = piece.end()
    if member[at:].strip(" ;\t"):
        return None
    kind, multipart = found[1].lower(), False
    if kind in ("multipart/related", "multipart/*"):
        kind, multipart = parameters.get("type", "*/*").lower(), True
    syntax = parameters.get("transfer-syntax")
    if syntax is not None and syntax != ANY_SYNTAX and not _UID.fullmatch(syntax):
        return None
    either = kind == "*/*" and not multipart
    return MediaRange(kind, None if either else multipart, syntax, _quality(parameters))


def _quality(parameters: Mapping[str, str]) -> float:
    try:
        return min(1.0, max(0.0, float(parameters.get("q", "1"))))
    except ValueError:
        return 1.0
