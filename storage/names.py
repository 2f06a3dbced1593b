"""Person names (VR PN, PS3.5 6.2.1) as people look for them: without marks, case, punctuation or order."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

__all__ = ["display", "fold", "fuzzy_regexes", "pattern_beginning", "pattern_regexes", "pattern_words", "words"]

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


# ---- matching of a written pattern (PS3.4 C.2.2.2.4), where `*` is any text and `?` any one character

_SEPARATORS = r"[\s!-)+-/:-<>@\[-`{-~]"  # what is no letter or digit in ASCII, without the wildcards and `=`
_MARKS = "[\u0300-\u036f\u3099\u309a]*"
_PIECES = re.compile(r"\*+|\?|(?:(?![*?])[\W_])+|[^\W_]+")
_LETTERS = (  # Latin, Greek, Cyrillic, their extensions, kana
    *range(0x41, 0x250), *range(0x370, 0x530), *range(0x1E00, 0x2000), *range(0x3041, 0x30FB),
)  # fmt: skip


def pattern_words(pattern: str) -> list[tuple[str, bool]]:
    """The folded words that a name must have to match, each with whether it is whole or only a beginning."""
    pieces = _pieces(pattern)
    found = []
    for n, piece in enumerate(pieces):
        before, behind = (pieces[at] if 0 <= at < len(pieces) else " " for at in (n - 1, n + 1))
        if piece[0] not in "*? " and before == " ":
            word = fold(piece)
            found.append((word[:_MAX_CHARACTERS], behind == " " and len(word) <= _MAX_CHARACTERS))
    return found


def pattern_regexes(pattern: str) -> list[str]:
    """Regular expressions of PostgreSQL that a whole name as sent (`a=i=p`) must all match.

    Case, marks and the kind of punctuation do not matter, and what stands at the end empty may be left out. A pattern
    of one component group matches the first of a name, or with letters other than Latin any of the three; with `=` each
    that is not empty matches its own (PS3.5 6.2.1.1).
    """
    groups = pattern.split("=")[:3]
    if len(groups) == 1:
        return [f"{'^' if _is_alphabetic(pattern) else '(^|=)'}{_group_regex(groups[0])}(=|$)"]
    return [f"^([^=]*=){{{n}}}{_group_regex(group)}(=|$)" for n, group in enumerate(groups) if group.strip("*^ ")]


def pattern_beginning(pattern: str) -> str:
    """How the joined `words` of a name begin that can match; '' where that is not known."""
    found: list[str] = []
    if "=" in pattern or not _is_alphabetic(pattern):
        return ""
    for piece in _pieces(pattern):
        if piece[0] in "*?":
            break
        found.append(fold(piece) or " ")
    listed = "".join(found).split()
    usable = len(set(listed)) == len(listed) <= _MAX_WORDS and all(len(word) < _MAX_CHARACTERS for word in listed)
    return " ".join(listed) if usable else ""


def fuzzy_regexes(text: str) -> list[str]:
    """Regular expressions that a name must all match: each word of the text begins a word of the name."""
    literals = [piece for piece in _pieces(text) if piece[0] not in "*? "]
    return [f"(^|=|{_SEPARATORS}){_literal(piece)}" for piece in literals]


def _is_alphabetic(pattern: str) -> bool:
    return fold(pattern).isascii()


def _group_regex(group: str) -> str:
    pieces = _pieces(group)
    while pieces and pieces[-1] == " ":
        pieces.pop()
    tail = ""
    if pieces[-2:-1] == [" "] and pieces[-1].startswith("*"):  # 'family^*' matches a name without anything behind it
        pieces, tail = pieces[:-2], f"({_SEPARATORS}[^=]*)?"
    return f"{_SEPARATORS}*" + "".join(map(_piece_regex, pieces)) + tail + f"{_SEPARATORS}*"


def _piece_regex(piece: str) -> str:
    if piece.startswith("*"):
        return "[^=]*"
    if piece == "?":
        return f"[^=]{_MARKS}"
    return f"{_SEPARATORS}+" if piece == " " else _literal(piece)


def _pieces(pattern: str) -> list[str]:
    """Wildcards, single blanks for what separates, and literals as written; no blank at the start."""
    found: list[str] = []
    for piece in _PIECES.findall(unicodedata.normalize("NFC", pattern)):
        new = piece if piece[0] in "*?" or fold(piece) else " "
        if new != " " or (found and found[-1] != " "):
            found.append(new)
    return found


def _literal(word: str) -> str:
    return "".join(_letter(letter) + _MARKS for letter in word if not unicodedata.combining(letter))


@lru_cache(maxsize=4096)
def _letter(letter: str) -> str:
    """A letter in any case and with any marks: what is folded to the same, or the letters that it is folded to."""
    folded = fold(letter)
    same = dict.fromkeys(
        (letter, letter.lower(), letter.upper(), *(_variants().get(folded, folded) if len(folded) == 1 else ()))
    )
    alone = f"[{''.join(each for each in same if len(each) == 1)}]"
    return alone if len(folded) == 1 else f"({alone}|{''.join(map(_letter, folded))})"


@lru_cache(maxsize=1)
def _variants() -> dict[str, str]:
    """The letters that are folded to each letter."""
    found: dict[str, str] = {}
    for code in _LETTERS:
        if (letter := chr(code)).isalpha() and len(folded := fold(letter)) == 1:
            found[folded] = found.get(folded, folded) + letter
    return found
