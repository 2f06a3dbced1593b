"""A DICOM client on a plain socket, for tests: it may misbehave in every way."""

from __future__ import annotations

import socket
import struct
from typing import Any

from pacs.dimse.command import decode, encode

CT = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


def element(group: int, number: int, vr: str, value: bytes) -> bytes:
    """One short element in explicit VR little endian."""
    value += (b" " if vr != "UI" else b"\0") * (len(value) % 2)
    return struct.pack("<HH2sH", group, number, vr.encode(), len(value)) + value


def data_set(sop_uid: str | None, study_uid: str | None = "1.2.3", pixels: bytes = b"", sop_class: str = CT) -> bytes:
    """A small CT data set in explicit VR little endian; None leaves the UID away."""
    out = element(8, 0x16, "UI", sop_class.encode())
    out += element(8, 0x18, "UI", sop_uid.encode()) if sop_uid is not None else b""
    out += element(8, 0x60, "CS", b"CT") + element(0x10, 0x10, "PN", b"Test^Raw") + element(0x10, 0x20, "LO", b"RAW1")
    out += element(0x20, 0x0D, "UI", study_uid.encode()) if study_uid is not None else b""
    out += element(0x20, 0x0E, "UI", b"1.2.3.4")
    return out + struct.pack("<HH2sxxI", 0x7FE0, 0x10, b"OW", len(pixels)) + pixels


class Raw:
    """A client on a plain socket that sends whatever it is told to."""

    def __init__(self, port: int, timeout_s: float = 10.0) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout_s)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.results: dict[int, int] = {}
        self.syntaxes: dict[int, str] = {}
        self.max_pdu = 0
        self.accept = b""

    def close(self) -> None:
        self.sock.close()

    # ---- association

    @staticmethod
    def request(
        contexts: list[tuple[str, list[str]]] | None = None,
        *,
        called: str = "SANGLOC",
        calling: str = "RAW",
        user: bytes = b"",
        application: str = "1.2.840.10008.3.1.1.1",
        version: int = 1,
    ) -> bytes:
        """An A-ASSOCIATE-RQ PDU; context ids are 1, 3, 5, ..."""
        items = _item(0x10, application.encode())
        for n, (abstract, syntaxes) in enumerate(contexts or [(VERIFICATION, [IMPLICIT]), (CT, [EXPLICIT])]):
            names = b"".join(_item(0x40, s.encode()) for s in syntaxes)
            items += _item(0x20, struct.pack(">Bxxx", 2 * n + 1) + _item(0x30, abstract.encode()) + names)
        items += _item(0x50, _item(0x51, struct.pack(">I", 16384)) + _item(0x52, b"1.2.3.999") + user)
        body = struct.pack(">Hxx16s16s32x", version, called.encode().ljust(16), calling.encode().ljust(16)) + items
        return struct.pack(">BxI", 1, len(body)) + body

    def associate(self, contexts: list[tuple[str, list[str]]] | None = None, **kwargs: Any) -> Raw:
        """Associate; returns itself. `results` has the result of each context."""
        self.sock.sendall(self.request(contexts, **kwargs))
        kind, body = self.pdu()
        assert kind == 2, f"not accepted: PDU {kind} {body.hex()}"
        self.accept = body
        at = 68
        while at < len(body):
            item, length = struct.unpack_from(">BxH", body, at)
            value = body[at + 4 : at + 4 + length]
            if item == 0x21:
                self.results[value[0]] = value[2]
                self.syntaxes[value[0]] = value[8:].decode()
            elif item == 0x50:
                (self.max_pdu,) = struct.unpack_from(">I", value, 4)
            at += 4 + length
        return self

    def release(self) -> None:
        self.sock.sendall(b"\5\0\0\0\0\4\0\0\0\0")
        assert self.pdu()[0] == 6
        self.close()

    def abort(self) -> None:
        self.sock.sendall(b"\7\0\0\0\0\4\0\0\0\0")
        self.close()

    # ---- bytes

    def pdu(self) -> tuple[int, bytes]:
        """The next PDU; `(0, b"")` at the end of the connection."""
        head = self._exactly(6)
        if not head:
            return 0, b""
        kind, length = struct.unpack(">BxI", head)
        return kind, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        out = b""
        while len(out) < count:
            part = self.sock.recv(count - len(out))
            if not part:
                return b""
            out += part
        return out

    def pdv(self, context_id: int, control: int, fragment: bytes, declared: int | None = None) -> bytes:
        """A P-DATA-TF PDU with one presentation data value; `declared` is a false PDU length."""
        inner = struct.pack(">IBB", len(fragment) + 2, context_id, control) + fragment
        return struct.pack(">BxI", 4, len(inner) if declared is None else declared) + inner

    # ---- messages

    def store_rq(self, sop_uid: str, sop_class: str = CT, with_data: bool = True) -> bytes:
        """The command set of a C-STORE request with message id 7."""
        return encode(
            {
                0x0002: sop_class.encode(),
                0x0100: 0x0001,
                0x0110: 7,
                0x0700: 0,
                0x0800: 0 if with_data else 0x0101,
                0x1000: sop_uid.encode(),
            }
        )

    def send_store(self, sop_uid: str, data: bytes, context_id: int = 3, fragment: int = 16000, **kwargs: Any) -> None:
        self.sock.sendall(self.pdv(context_id, 3, self.store_rq(sop_uid, **kwargs)))
        for at in range(0, len(data), fragment):
            last = 2 if at + fragment >= len(data) else 0
            self.sock.sendall(self.pdv(context_id, last, data[at : at + fragment]))

    def answer(self) -> tuple[int, str]:
        """Status and error comment of the next response, which must answer message 7."""
        kind, body = self.pdu()
        assert kind == 4, f"no answer: PDU {kind} {body.hex()}"
        command = decode(body[4], body[6:])
        assert command.elements[0x0120] == struct.pack("<H", 7)
        (status,) = struct.unpack("<H", command.elements[0x0900])
        return status, command.elements.get(0x0902, b"").decode().strip()

    def store(self, sop_uid: str, data: bytes, **kwargs: Any) -> tuple[int, str]:
        self.send_store(sop_uid, data, **kwargs)
        return self.answer()

    def echo(self) -> int:
        rq = encode({0x0002: VERIFICATION.encode(), 0x0100: 0x0030, 0x0110: 7, 0x0800: 0x0101})
        self.sock.sendall(self.pdv(1, 3, rq))
        return self.answer()[0]
