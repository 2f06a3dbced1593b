"""Data sets by hand, byte for byte, so that tests can break them where they like."""

from __future__ import annotations

import struct

LONG_VRS = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UC", "UN", "UR", "UT"}
UNDEFINED = 0xFFFFFFFF
EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
CT = "1.2.840.10008.5.1.4.1.1.2"
ROOT = "1.2.826.0.1.3680043.9999"


def padded(value: bytes, vr: str = "UI") -> bytes:
    return value + (b"\0" if vr in {"UI", "OB", "UN"} else b" ") * (len(value) % 2)


def head(tag: int, vr: str, length: int, syntax: str = EXPLICIT) -> bytes:
    order = ">" if syntax == BIG else "<"
    group, element = tag >> 16, tag & 0xFFFF
    if syntax == IMPLICIT or group == 0xFFFE:
        return struct.pack(order + "HHI", group, element, length)
    if vr in LONG_VRS:
        return struct.pack(order + "HH2sHI", group, element, vr.encode(), 0, length)
    return struct.pack(order + "HH2sH", group, element, vr.encode(), length)


def element(tag: int, vr: str, value: bytes | str | int, syntax: str = EXPLICIT) -> bytes:
    if isinstance(value, int):
        value = struct.pack((">" if syntax == BIG else "<") + "H", value)
    if isinstance(value, str):
        value = value.encode("ascii")
    value = padded(value, vr)
    return head(tag, vr, len(value), syntax) + value


def sequence(tag: int, *items: bytes, undefined: bool, syntax: str = EXPLICIT, vr: str = "SQ") -> bytes:
    """A sequence whose items (their elements) are of defined or undefined length throughout."""
    inner = IMPLICIT if vr == "UN" else syntax
    body = b"".join(
        head(0xFFFEE000, "", UNDEFINED if undefined else len(item), inner)
        + item
        + (head(0xFFFEE00D, "", 0, inner) if undefined else b"")
        for item in items
    )
    if undefined:
        return head(tag, vr, UNDEFINED, syntax) + body + head(0xFFFEE0DD, "", 0, inner)
    return head(tag, vr, len(body), syntax) + body


def data_set(
    syntax: str = EXPLICIT, *, n: int | str = 1, study: int | str = 1, pixels: bytes = b"", **over: bytes
) -> bytes:
    """A small CT image in order of tags; `over` replaces or adds elements as `t00100010=b"LO..."` (VR and value)."""
    elements: dict[int, tuple[str, bytes | str | int]] = {
        0x00080016: ("UI", CT),
        0x00080018: ("UI", f"{ROOT}.3.{n}"),
        0x00080060: ("CS", "CT"),
        0x00100010: ("PN", "Nguyen^An"),
        0x00100020: ("LO", f"P{study}"),
        0x0020000D: ("UI", f"{ROOT}.1.{study}"),
        0x0020000E: ("UI", f"{ROOT}.2.{study}"),
        0x00200013: ("IS", "7"),
        0x00280010: ("US", 512),
        0x00280011: ("US", 256),
    }
    for name, value in over.items():
        elements[int(name[1:], 16)] = (value[:2].decode(), value[2:])
    body = b"".join(element(tag, vr, value, syntax) for tag, (vr, value) in sorted(elements.items()))
    return body + (element(0x7FE00010, "OW", pixels, syntax) if pixels else b"")
