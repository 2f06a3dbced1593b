"""Command sets: group 0000, always in implicit VR little endian (PS3.7 6.3.1, E.1).

Own and small, because two of them pass for each stored object, and strict, because they come from anywhere.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from pacs.dimse.wire import INVALID_PARAMETER, ProtocolError

__all__ = [
    "AFFECTED_SOP_CLASS",
    "AFFECTED_SOP_INSTANCE",
    "C_CANCEL_RQ",
    "C_ECHO_RQ",
    "C_FIND_RQ",
    "C_GET_RQ",
    "C_MOVE_RQ",
    "C_STORE_RQ",
    "RESPONSE",
    "Command",
    "decode",
    "encode",
    "response",
]

AFFECTED_SOP_CLASS, COMMAND_FIELD, MESSAGE_ID, RESPONDED_TO = 0x0002, 0x0100, 0x0110, 0x0120
DATA_SET_TYPE, STATUS, ERROR_COMMENT, AFFECTED_SOP_INSTANCE = 0x0800, 0x0900, 0x0902, 0x1000

C_STORE_RQ, C_GET_RQ, C_FIND_RQ, C_MOVE_RQ, C_ECHO_RQ, C_CANCEL_RQ = 0x0001, 0x0010, 0x0020, 0x0021, 0x0030, 0x0FFF
RESPONSE = 0x8000  # set in the Command Field of every response
_NO_DATA_SET, _A_DATA_SET = 0x0101, 0x0001
_COMMENT_CHARACTERS = 64  # Error Comment is LO

_ELEMENT = struct.Struct("<HHI")
_US = struct.Struct("<H")


@dataclass(frozen=True, slots=True)
class Command:
    """One command set as received; `elements` maps the element number of group 0000 to its raw value."""

    context_id: int
    field: int
    message_id: int  # 0 in a response or a cancel, which name another message instead
    has_data_set: bool
    elements: Mapping[int, bytes]

    @property
    def responded_to(self) -> int | None:
        """Message ID Being Responded To (0000,0120): of the request that a response or a cancel names; None without."""
        return self.number(RESPONDED_TO)

    def number(self, element: int) -> int | None:
        """A US value; None where it is absent or malformed."""
        value = self.elements.get(element, b"")
        return int(_US.unpack(value)[0]) if len(value) == _US.size else None

    def uid(self, element: int) -> str:
        """A UI value without its padding, '' where absent; bytes outside ASCII are shown escaped."""
        return self.elements.get(element, b"").rstrip(b"\0 ").decode("ascii", "backslashreplace")


def decode(context_id: int, data: bytes) -> Command:
    """Read a command set. Raises `ProtocolError` when it is malformed (PS3.7 E.1)."""
    elements: dict[int, bytes] = {}
    at, last = 0, -1
    while at < len(data):
        if len(data) - at < _ELEMENT.size:
            raise ProtocolError(INVALID_PARAMETER, "command set ends within an element")
        group, element, length = _ELEMENT.unpack_from(data, at)
        at += _ELEMENT.size
        if group != 0 or element <= last or length > len(data) - at:
            raise ProtocolError(INVALID_PARAMETER, f"bad element ({group:04X},{element:04X}) in the command set")
        elements[element] = data[at : at + length]
        at, last = at + length, element
    field = _number(elements, COMMAND_FIELD)
    named = not field & RESPONSE and field != C_CANCEL_RQ
    message_id = _number(elements, MESSAGE_ID) if named else 0
    return Command(context_id, field, message_id, _number(elements, DATA_SET_TYPE) != _NO_DATA_SET, elements)


def _number(elements: Mapping[int, bytes], element: int) -> int:
    value = elements.get(element, b"")
    if len(value) != _US.size:
        raise ProtocolError(INVALID_PARAMETER, f"(0000,{element:04X}) is missing or is not one US value")
    return int(_US.unpack(value)[0])


def encode(elements: Mapping[int, int | bytes]) -> bytes:
    """A command set with its group length. Numbers become US; bytes are padded with NUL to an even length."""
    parts = []
    for element in sorted(elements):
        value = elements[element]
        raw = _US.pack(value) if isinstance(value, int) else value + b"\0" * (len(value) % 2)
        parts.append(_ELEMENT.pack(0, element, len(raw)) + raw)
    body = b"".join(parts)
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<I", len(body)) + body


def response(request: Command, status: int, comment: str = "", *, data_set: bool = False) -> bytes:
    """The command set that answers a request; UIDs are given back as they came (PS3.7 9.3).

    `data_set`: whether one follows.
    """
    elements: dict[int, int | bytes] = {
        COMMAND_FIELD: request.field | RESPONSE,
        RESPONDED_TO: request.message_id,
        DATA_SET_TYPE: _A_DATA_SET if data_set else _NO_DATA_SET,
        STATUS: status,
    }
    for element in (AFFECTED_SOP_CLASS, AFFECTED_SOP_INSTANCE):
        if element in request.elements:
            elements[element] = request.elements[element]
    if comment:
        text = comment.encode("ascii", "replace").replace(b"\\", b"/")[:_COMMENT_CHARACTERS]
        elements[ERROR_COMMENT] = text + b" " * (len(text) % 2)
    return encode(elements)
