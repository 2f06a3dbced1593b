"""Matching of keys against attributes that are at hand, one answer at a time (PS3.4 C.2.2.2).

For information models whose answers are made before they are matched, such as the modality worklist. What an index
can find is asked of the database; this is the last word on everything that was asked.
"""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from pacs.identifiers import Element, Elements
from storage import names
from storage.errors import InvalidInput

__all__ = ["Span", "date_span", "matches", "name_words", "project", "time_span"]

Span = tuple[str, str]
"""First and last of a range, both included, as digits; '' is no bound."""

_NUMBERS = frozenset({"DS", "FD", "FL", "IS", "SL", "SS", "UL", "US"})
_DATE = re.compile(r"\d{8}", re.ASCII)
_TIME = re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?", re.ASCII)
_STROKES = str.maketrans({"đ": "d", "Đ": "d", "^": " ", ",": " "})
_LATEST = "235959.999999"


def date_span(value: str) -> Span:
    """A date or a range of dates (C.2.2.2.5); raises `InvalidInput`."""

    def bound(text: str) -> str:
        digits = text.strip().replace(".", "")
        try:
            if digits and not _DATE.fullmatch(digits):
                raise ValueError(digits)
            if digits:
                dt.date.fromisoformat(digits)
        except ValueError:
            raise InvalidInput("A date is YYYYMMDD, a range of dates YYYYMMDD-YYYYMMDD (PS3.4 C.2.2.2.5).") from None
        return digits

    first, dash, last = value.partition("-")
    return (bound(first), bound(last)) if dash else (bound(value),) * 2


def time_span(value: str) -> Span:
    """A time or a range of times (C.2.2.2.5); a time without seconds is all of its minute. Raises `InvalidInput`."""

    def bound(text: str, filler: str) -> str:
        digits = text.strip().replace(":", "")
        if not digits:
            return ""
        if not _TIME.fullmatch(digits):
            raise InvalidInput("A time is HHMMSS.FFFFFF, a range of times HHMMSS-HHMMSS (PS3.4 C.2.2.2.5).")
        whole = digits + filler[len(digits) :]
        if whole[:6] > "235960" or whole[2:4] > "59":
            raise InvalidInput("A time is HHMMSS.FFFFFF (PS3.5 6.2).")
        return min(whole, _LATEST)

    first, dash, last = value.partition("-")
    return bound(first, "000000.000000"), bound(last if dash else value, _LATEST)


def name_words(pattern: str) -> list[str]:
    """Folded words that a name must have, as beginnings of words, to match a pattern; for a search by index."""
    found: list[str] = []
    for piece in re.finditer(r"[^*?]+", next((group for group in pattern.split("=") if group.strip("^ ")), "")):
        before = pattern[piece.start() - 1] if piece.start() else " "
        words = names.fold(piece.group()).split()
        if words and before in "*?" and piece.group()[0] not in " ^,":
            del words[0]  # the end of a word
        found += words
    return found


def matches(key: Element, found: Element | None) -> bool:
    """Whether an attribute matches a key; a key without a value matches everything (universal matching)."""
    if not key.values:
        return True
    if key.vr == "SQ":
        return _item_matches(key.values[0], found)
    values = found.values if found is not None else ()
    if key.vr in ("DA", "TM"):
        span = date_span(str(key.values[0])) if key.vr == "DA" else time_span(str(key.values[0]))
        return any(_within(str(value), span, key.vr) for value in values)
    if key.vr in _NUMBERS:
        return any(_same_number(asked, value) for asked in key.values for value in values)
    name = key.vr == "PN"
    pieces = (
        [group for value in values for group in str(value).split("=")] if name else [str(value) for value in values]
    )
    patterns = [str(asked) for asked in key.values]
    if name:
        patterns = [next((group for group in asked.split("=") if group.strip("^ ")), "*") for asked in patterns]
    return any(_pattern(asked, name).fullmatch(_folded(value) if name else value) for asked in patterns
               for value in pieces or [""])  # fmt: skip


def _item_matches(asked: Elements, found: Element | None) -> bool:
    items: Iterable[Any] = found.values if found is not None else ()
    if not any(key.values for key in asked.values()):
        return True
    return any(all(matches(key, item.get(tag)) for tag, key in asked.items()) for item in items)


def _within(value: str, span: Span, vr: str) -> bool:
    if vr == "TM":
        value += "000000.000000"[len(value) :]
    return bool(value) and span[0] <= value <= (span[1] or "9" * 8)


def _same_number(asked: Any, value: Any) -> bool:
    try:
        return float(asked) == float(value)
    except ValueError:
        return False


@lru_cache(maxsize=256)
def _pattern(text: str, name: bool) -> re.Pattern[str]:
    """Single value or wildcard matching (C.2.2.2.1, C.2.2.2.4); names without regard to case and marks."""
    folded = _folded(text) if name else text
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in re.sub(r"\*+", "*", folded))
    return re.compile("".join(parts), re.DOTALL)


def _folded(text: str) -> str:
    bare = unicodedata.normalize("NFD", text.translate(_STROKES))
    kept = "".join(character for character in bare if not unicodedata.combining(character))
    return " ".join(kept.casefold().split())


def project(asked: Elements, found: Elements) -> tuple[dict[int, Element], bool]:
    """Of what is found that which was asked for; and whether some of it is not known to us (status FF01).

    A sequence that is asked for without an item comes back with all of its attributes.
    """
    answer: dict[int, Element] = {}
    unknown = False
    for tag, key in asked.items():
        element = found.get(tag)
        if element is None:
            answer[tag], unknown = Element(key.vr), True
        elif key.vr == "SQ" and key.values and key.values[0]:
            items = [project(key.values[0], item) for item in element.values]
            answer[tag] = Element("SQ", [item for item, _ in items])
            unknown = unknown or any(missing for _, missing in items)
        else:
            answer[tag] = element
    return answer, unknown
