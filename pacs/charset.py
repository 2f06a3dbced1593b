"""Text of a data set by its Specific Character Set, with ISO 2022 code extensions (PS3.3 C.12.1.1.2, PS3.5 6.1.2).

Nothing here fails: what cannot be decoded is read as ISO 8859-1, which loses no byte.
"""

from __future__ import annotations

import re
from functools import lru_cache

import structlog

__all__ = ["NAME_DELIMITERS", "TEXT_DELIMITERS", "codecs_of", "decode"]

log = structlog.get_logger()

# After these the first character set is active again (PS3.5 6.1.2.5.3).
TEXT_DELIMITERS = b"\\\r\n\f\t"
NAME_DELIMITERS = b"\\^=\r\n\f\t"

_LATIN1 = "latin-1"
_JIS = {
    "iso2022_jp",
    "iso2022_jp_2",
}  # Python's codecs want the escape sequence, and double bytes may look like delimiters
_ALONE = {"utf-8", "gb18030", "gbk"}  # no code extensions (PS3.5 6.1.2.5.4 d)
_UNDECLARED = ("",)

# The number at the end of the defined term -> Python codec (PS3.3 tables C.12-2 to C.12-5).
_CODECS = {
    "6": _LATIN1,  # ASCII by the standard; whoever sends more than that means Latin-1 most often
    "13": "shift_jis",
    "58": "gb2312",
    "87": "iso2022_jp",
    "100": _LATIN1,
    "101": "iso8859-2",
    "109": "iso8859-3",
    "110": "iso8859-4",
    "126": "iso8859-7",
    "127": "iso8859-6",
    "138": "iso8859-8",
    "144": "iso8859-5",
    "148": "iso8859-9",
    "149": "euc_kr",
    "159": "iso2022_jp_2",
    "166": "tis_620",
    "192": "utf-8",
    "203": "iso8859-15",
    "GBK": "gbk",
    "GB18030": "gb18030",
    "UTF8": "utf-8",
}
# Escape sequence -> Python codec (PS3.3 tables C.12-3 and C.12-4).
_ESCAPES = {
    b"\x1b(B": _LATIN1,
    b"\x1b-A": _LATIN1,
    b"\x1b-B": "iso8859-2",
    b"\x1b-C": "iso8859-3",
    b"\x1b-D": "iso8859-4",
    b"\x1b-F": "iso8859-7",
    b"\x1b-G": "iso8859-6",
    b"\x1b-H": "iso8859-8",
    b"\x1b-L": "iso8859-5",
    b"\x1b-M": "iso8859-9",
    b"\x1b-T": "tis_620",
    b"\x1b-b": "iso8859-15",
    b"\x1b)I": "shift_jis",
    b"\x1b(J": "shift_jis",
    b"\x1b$B": "iso2022_jp",
    b"\x1b$(D": "iso2022_jp_2",
    b"\x1b$)A": "gb2312",
    b"\x1b$)C": "euc_kr",
}
_FRAGMENT = re.compile(rb"(\x1b\$[()].|\x1b..|\x1b.?|)([^\x1b]*)", re.DOTALL)
_TERM = re.compile(r"(?:ISO[ _-]?(?:2022[ _-]?)?(?:IR[ _-]?)?)?(\w+)", re.ASCII)


@lru_cache(maxsize=256)
def codecs_of(specific_character_set: bytes) -> tuple[str, ...]:
    """Python codecs for the value of (0008,0005); `('',)` when nothing is declared.

    Common misspellings are understood ("ISO-IR 100", "UTF-8"). An unknown term is logged once and read as Latin-1.
    """
    terms = [term.strip(" \0").upper() for term in specific_character_set.decode(_LATIN1).split("\\")]
    if terms == [""]:
        return _UNDECLARED
    found = [_codec(term) for term in terms]
    return (found[0],) if found[0] in _ALONE else tuple(name for name in found if name not in _ALONE)


def decode(raw: bytes, codecs: tuple[str, ...], delimiters: bytes = TEXT_DELIMITERS) -> str:
    """The text of a value; undeclared bytes are read as UTF-8 where they are that, else as Latin-1."""
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii")
    if codecs == _UNDECLARED:
        codecs = ("utf-8",) if _is_utf8(raw) else (_LATIN1,)
    if b"\x1b" not in raw or codecs[0] in _ALONE:
        return _strict(raw, codecs[0])
    return "".join(_fragment(escape, text, codecs[0], delimiters) for escape, text in _FRAGMENT.findall(raw))


def _codec(term: str) -> str:
    match = _TERM.fullmatch("UTF8" if term == "UTF-8" else term or "6")
    codec = _CODECS.get(match[1]) if match else None
    if codec is None:
        log.warning("unknown character set is read as latin-1", character_set=term[:64])
    return codec or _LATIN1


def _fragment(escape: bytes, text: bytes, first: str, delimiters: bytes) -> str:
    """One run of text behind an escape sequence (or none, at the start)."""
    codec = _ESCAPES.get(escape)
    if codec is None:  # no escape sequence or an unknown one, which stays visible as Latin-1 text
        return _strict(escape[1:] + text, first)
    if codec in _JIS:
        return _strict(escape + text, codec, fallback=text)
    end = next((index for index, byte in enumerate(text) if byte in delimiters), len(text))
    return _strict(text[:end], codec) + _strict(text[end:], first)


def _strict(raw: bytes, codec: str, fallback: bytes | None = None) -> str:
    try:
        return raw.decode(codec)
    except UnicodeError:
        return (raw if fallback is None else fallback).decode(_LATIN1)


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeError:
        return False
    return True
