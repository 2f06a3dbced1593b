"""A small DICOM client on a plain socket: cheap beside the server under test, and able to break off anywhere.

PDUs: PS3.8 9.3; command sets: PS3.7 E.1, 9.3.1 (C-STORE), 9.3.5 (C-ECHO). Data sets are explicit VR little endian.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

VERIFICATION = "1.2.840.10008.1.1"
CT, DX = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.1.1"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
CONTEXTS = ((VERIFICATION, IMPLICIT), (DX, EXPLICIT), (CT, EXPLICIT))


class RefusedError(Exception):
    """A-ASSOCIATE-RJ: result, source, reason."""


class BrokenError(Exception):
    """The association ended without an answer: A-ABORT or a closed connection."""


class Client:
    """One association; contexts are (abstract syntax, transfer syntax), numbered 1, 3, 5."""

    def __init__(
        self,
        port: int,
        called: str = "SANGLOC",
        *,
        calling: str = "TEST",
        contexts: Sequence[tuple[str, str]] = CONTEXTS,
        timeout_s: float = 30.0,
        host: str = "127.0.0.1",
    ) -> None:
        self.socket = socket.create_connection((host, port), timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ids = {abstract: 2 * i + 1 for i, (abstract, _) in enumerate(contexts)}
        self._message = 0
        self.peer_pdu = 16384
        try:
            self.socket.sendall(associate_request(called, calling, contexts))
            kind, body = self.read_pdu()
        except BaseException:
            self.socket.close()
            raise
        if kind == 3:
            self.socket.close()
            raise RefusedError(*body[1:4])
        if kind != 2:
            self.socket.close()
            raise BrokenError(f"PDU type {kind}")
        found = body.find(b"\x51\x00\x00\x04", 68)
        self.peer_pdu = struct.unpack_from(">I", body, found + 4)[0] or 1 << 20

    def echo(self) -> int:
        """The status of a C-ECHO."""
        self._send(VERIFICATION, command(VERIFICATION, 0x0030, self._next()), None)
        return self.status()

    def store(self, sop_class: str, sop_uid: str, data_set: bytes) -> int:
        """The status of a C-STORE."""
        self.send(sop_class, sop_uid, data_set)
        return self.status()

    def send(self, sop_class: str, sop_uid: str, data_set: bytes, *, only: int | None = None) -> None:
        """Send a C-STORE request; `only` breaks off after so many bytes of its last part."""
        self._send(sop_class, command(sop_class, 0x0001, self._next(), sop_uid), data_set, only)

    def status(self) -> int:
        """(0000,0900) of the next response."""
        kind, body = self.read_pdu()
        if kind != 4:
            raise BrokenError(f"PDU type {kind}")
        at = body.rindex(b"\0\0\0\x09\x02\0\0\0")  # the last: answer 521 has these bytes at its message ID, too
        return int(struct.unpack_from("<H", body, at + 8)[0])

    def read_pdu(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxI", self._exactly(6))
        return kind, self._exactly(length)

    def release(self) -> None:
        self.socket.sendall(b"\x05\0\0\0\0\x04\0\0\0\0")
        try:
            while self.read_pdu()[0] != 6:
                pass
        finally:
            self.socket.close()

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        if exc == (None, None, None):
            self.release()
        self.close()

    def _next(self) -> int:
        self._message = self._message % 65535 + 1
        return self._message

    def _send(self, abstract: str, cmd: bytes, data: bytes | None, only: int | None = None) -> None:
        context = self._ids[abstract]
        parts = [_pdv(context, 3, cmd)]
        if data is not None:
            room = min(self.peer_pdu, 1 << 17) - 6
            view = memoryview(data)
            starts = range(0, len(data) or 1, room)
            parts += [_pdv(context, 2 if at + room >= len(data) else 0, view[at : at + room]) for at in starts]
        whole = b"".join(parts)
        self.socket.sendall(whole if only is None else whole[:only])

    def _exactly(self, count: int) -> bytes:
        out = bytearray()
        while len(out) < count:
            part = self.socket.recv(count - len(out))
            if not part:
                raise BrokenError("closed")
            out += part
        return bytes(out)


class Made(NamedTuple):
    """A data set of our own and what the archive must say about it."""

    sop_class: str
    sop_uid: str
    study_uid: str
    data: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def new_uid() -> str:
    return f"2.25.{secrets.randbits(127) | 1 << 126}"


def make(
    *, study_uid: str = "", series_uid: str = "", sop_class: str = CT, patient: str = "P1", pixels: int = 20_000
) -> Made:
    """A CT slice or a frontal radiograph (DX) of `pixels` random bytes, with the attributes that the index wants."""
    study_uid, sop_uid = study_uid or new_uid(), new_uid()
    modality = "DX" if sop_class == DX else "CT"
    side = max(1, int((pixels / 2) ** 0.5))
    fields: list[tuple[int, str, bytes]] = [
        (0x00080005, "CS", b"ISO_IR 192"),
        (0x00080016, "UI", sop_class.encode()),
        (0x00080018, "UI", sop_uid.encode()),
        (0x00080020, "DA", b"20260102"),
        (0x00080030, "TM", b"101500"),
        (0x00080050, "SH", b"A1"),
        (0x00080060, "CS", modality.encode()),
        (0x00100010, "PN", "Nguyễn^Văn An".encode()),
        (0x00100020, "LO", patient.encode()),
        (0x00180015, "CS", b"CHEST"),
        (0x00185101, "CS", b"PA"),
        (0x0020000D, "UI", study_uid.encode()),
        (0x0020000E, "UI", (series_uid or f"{study_uid}.1").encode()),
        (0x00280002, "US", struct.pack("<H", 1)),
        (0x00280004, "CS", b"MONOCHROME2"),
        (0x00280010, "US", struct.pack("<H", side)),
        (0x00280011, "US", struct.pack("<H", side)),
        (0x00280100, "US", struct.pack("<H", 16)),
        (0x00280101, "US", struct.pack("<H", 16)),
        (0x00280102, "US", struct.pack("<H", 15)),
        (0x00280103, "US", struct.pack("<H", 0)),
        (0x7FE00010, "OW", secrets.token_bytes(side * side * 2)),
    ]
    return Made(sop_class, sop_uid, study_uid, b"".join(element(*field) for field in fields))


def element(tag: int, vr: str, value: bytes) -> bytes:
    """One explicit VR little endian data element (PS3.5 7.1.2)."""
    value += (b"\0" if vr in {"UI", "OW"} else b" ") * (len(value) % 2)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    size = struct.pack("<HI", 0, len(value)) if vr == "OW" else struct.pack("<H", len(value))
    return head + size + value


def command(sop_class: str, field: int, message: int, sop_uid: str | None = None) -> bytes:
    """A C-ECHO-RQ, or with `sop_uid` a C-STORE-RQ, in implicit VR little endian."""

    def item(tag: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHI", 0, tag, len(value)) + value

    body = item(0x0002, sop_class.encode()) + item(0x0100, struct.pack("<H", field))
    body += item(0x0110, struct.pack("<H", message))
    if sop_uid is not None:
        body += item(0x0700, struct.pack("<H", 0))
    body += item(0x0800, struct.pack("<H", 0x0101 if sop_uid is None else 0))
    if sop_uid is not None:
        body += item(0x1000, sop_uid.encode())
    return item(0x0000, struct.pack("<I", len(body))) + body


def associate_request(called: str, calling: str, contexts: Sequence[tuple[str, str]]) -> bytes:
    """A-ASSOCIATE-RQ (PS3.8 9.3.2) that offers a maximum PDU length of 64 KiB."""

    def item(kind: int, body: bytes) -> bytes:
        return struct.pack(">BxH", kind, len(body)) + body

    body = struct.pack(">HH16s16s32x", 1, 0, called.encode().ljust(16), calling.encode().ljust(16))
    body += item(0x10, b"1.2.840.10008.3.1.1.1")
    for i, (abstract, transfer) in enumerate(contexts):
        syntaxes = item(0x30, abstract.encode()) + item(0x40, transfer.encode())
        body += item(0x20, struct.pack(">B3x", 2 * i + 1) + syntaxes)
    user = item(0x51, struct.pack(">I", 65536)) + item(0x52, b"2.25.181818")
    return struct.pack(">BxI", 1, len(body) + len(user) + 4) + body + item(0x50, user)


def _pdv(context: int, flags: int, data: bytes | memoryview) -> bytes:
    return struct.pack(">BxIIBB", 4, len(data) + 6, len(data) + 2, context, flags) + bytes(data)
