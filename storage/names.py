"""Person names (VR PN, PS3.5 6.2.1) as people look for them: without marks, case, punctuation or order."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["display", "fold", "words"]

_NOT_WORD = re.compile(r"[\W_]+")
_STROKES = str.maketrans({"đ": "d", "Đ": "d", "ł": "l", "Ł": "l", "ø": "o", "Ø": "o"})  # no decomposition in Unicode
_MAX_WORDS = 32
_MAX_CHARACTERS = 64  # of a word; PS3.5 6.2 allows 64 in a component group


def fold(text: str) -> str:
    """The search key of a text: NFD, marks dropped, đ to d, case folded, punctuation to single blanks."""
    decomposed = unicodedata.normalize("NFD", text.translate(_STROKES))
    bare = "".join(character for character in decomposed if not unicodedata.combining(character))
    return _NOT_WORD.sub(" ", bare.casefold()).strip()


def words(person_name: str) -> tuple[str, ...]:
    """The different folded words of all three groups, in the order of their first appearance."""
    unique = dict.fromkeys(word[:_MAX_CHARACTERS] for word in fold(person_name).split())
    return tuple(unique)[:_MAX_WORDS]


def display(person_name: str) -> str:
    """The first group that is not empty, written plainly: 'Nguyễn^Văn An^^BS' becomes 'BS Nguyễn Văn An'."""
    group = next((group for group in person_name.split("=") if group.strip("^ ")), "")
    family, given, middle, prefix, suffix = (*group.split("^"), "", "", "", "", "")[:5]
    return " ".join(" ".join((prefix, family, given, middle, suffix)).split())
