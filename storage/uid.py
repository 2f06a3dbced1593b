"""DICOM unique identifiers, validated on construction (PS3.5 9.1)."""

from __future__ import annotations

import re
from typing import Self

from storage.errors import InvalidUID

__all__ = ["UID", "InstanceUID", "SeriesUID", "StudyUID"]

_VALID = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))*", re.ASCII)
_MAX_CHARACTERS = 64


class UID(str):
    """A unique identifier: digits and dots, at most 64 characters, no component with a leading zero (PS3.5 9.1).

    Trailing NUL and space padding is removed. Raises `InvalidUID` for anything else.
    """

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        """Validate; see the class."""
        text = value.rstrip("\0 ")
        if len(text) > _MAX_CHARACTERS or _VALID.fullmatch(text) is None:
            shown = text[:_MAX_CHARACTERS].encode("ascii", "backslashreplace").decode()
            raise InvalidUID(f"{cls.__name__} {shown!r} is not a valid UID (PS3.5 9.1)")
        return super().__new__(cls, text)


class StudyUID(UID):
    """Study Instance UID (0020,000D)."""

    __slots__ = ()


class SeriesUID(UID):
    """Series Instance UID (0020,000E)."""

    __slots__ = ()


class InstanceUID(UID):
    """SOP Instance UID (0008,0018)."""

    __slots__ = ()
