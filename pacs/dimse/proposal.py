"""The association PDUs of the side that asks: A-ASSOCIATE-RQ written, A-ASSOCIATE-AC and -RJ read (PS3.8 9.3)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pacs.dimse.contexts import APPLICATION_CONTEXT, Context
from pacs.dimse.wire import INVALID_PARAMETER, ProtocolError
from pacs.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

__all__ = ["MOST_CONTEXTS", "Accepted", "Proposal", "associate_request", "read_accept", "read_reject"]

MOST_CONTEXTS = 128  # their ids are the odd numbers of one byte (PS3.8 9.3.2.2)

_ITEM = struct.Struct(">BxH")
_FIXED_BYTES = 68  # of A-ASSOCIATE-RQ and -AC before their items
_APPLICATION, _PROPOSED, _ANSWERED, _ABSTRACT, _TRANSFER = 0x10, 0x20, 0x21, 0x30, 0x40
_USER, _MAX_LENGTH, _CLASS_UID, _ROLE, _VERSION_NAME, _EXTENDED = 0x50, 0x51, 0x52, 0x54, 0x55, 0x56

_REASONS = {  # source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21)
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    (1, 3): "calling AE title not recognized",
    (1, 7): "called AE title not recognized",
    (2, 1): "no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}


@dataclass(frozen=True, slots=True)
class Proposal:
    """One presentation context that we propose, and whether we would be the SCP in it (PS3.7 D.3.3.4)."""

    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    as_scp: bool = False
    options: bytes = b""  # application information of SOP class extended negotiation (PS3.7 D.3.3.5); b"": none


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the other side agreed to."""

    contexts: Mapping[int, Context]
    peer_max_pdu_bytes: int  # 0: no limit


def associate_request(called: str, calling: str, proposals: Sequence[Proposal], max_pdu_bytes: int) -> bytes:
    """The A-ASSOCIATE-RQ PDU; contexts get the ids 1, 3, 5, ... in the order of the proposals."""
    items = [_item(_APPLICATION, APPLICATION_CONTEXT.encode())]
    for number, proposal in enumerate(proposals):
        syntaxes = b"".join(_item(_TRANSFER, uid.encode()) for uid in proposal.transfer_syntaxes)
        abstract = _item(_ABSTRACT, proposal.abstract_syntax.encode())
        items.append(_item(_PROPOSED, bytes((2 * number + 1, 0, 0, 0)) + abstract + syntaxes))
    user = [_item(_MAX_LENGTH, max_pdu_bytes.to_bytes(4, "big")), _item(_CLASS_UID, IMPLEMENTATION_CLASS_UID.encode())]
    for uid in sorted({proposal.abstract_syntax for proposal in proposals if proposal.as_scp}):
        name = uid.encode()
        user.append(_item(_ROLE, len(name).to_bytes(2, "big") + name + b"\0\1"))
    for uid, options in {each.abstract_syntax: each.options for each in proposals if each.options}.items():
        user.append(_item(_EXTENDED, len(uid).to_bytes(2, "big") + uid.encode() + options))
    user.append(_item(_VERSION_NAME, IMPLEMENTATION_VERSION_NAME.encode()))
    items.append(_item(_USER, b"".join(user)))
    body = struct.pack(">Hxx16s16s32x", 1, called.encode().ljust(16), calling.encode().ljust(16)) + b"".join(items)
    return struct.pack(">BxI", 1, len(body)) + body


def read_accept(body: bytes, proposals: Sequence[Proposal]) -> Accepted:
    """Read the body of an A-ASSOCIATE-AC; raises `ProtocolError` when it answers what was not asked, or is broken."""
    contexts: dict[int, Context] = {}
    max_pdu = 0
    for kind, value in _items(body, _FIXED_BYTES):
        if kind == _ANSWERED and len(value) >= 4 and value[2] == 0:
            number, odd = divmod(value[0], 2)
            syntax = next((v for k, v in _items(value, 4) if k == _TRANSFER), b"").rstrip(b"\0 ").decode("latin-1")
            if not odd or number >= len(proposals) or syntax not in proposals[number].transfer_syntaxes:
                raise ProtocolError(INVALID_PARAMETER, f"context {value[0]} is accepted with what was not proposed")
            contexts[value[0]] = Context(proposals[number].abstract_syntax, syntax)
        elif kind == _USER:
            lengths = (v for k, v in _items(value, 0) if k == _MAX_LENGTH and len(v) == 4)
            max_pdu = int.from_bytes(next(lengths, b""), "big")
    return Accepted(contexts, max_pdu)


def read_reject(body: bytes) -> tuple[bool, str]:
    """Whether an A-ASSOCIATE-RJ is for good (else a later try may succeed), and its reason in words."""
    result, source, reason = (body + bytes(4))[1:4]
    return result != 2, _REASONS.get((source, reason), f"source {source}, reason {reason}")


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def _items(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at + _ITEM.size <= len(data):
        kind, length = _ITEM.unpack_from(data, at)
        at += _ITEM.size + length
        if at > len(data):
            raise ProtocolError(INVALID_PARAMETER, "an item of the A-ASSOCIATE-AC is cut off")
        yield kind, data[at - length : at]
