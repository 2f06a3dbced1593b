"""An HL7 sender on a plain socket, and messages put together field by field."""

from __future__ import annotations

import itertools
import socket
from typing import Any

_numbers = itertools.count(1)


def segment(name: str, fields: dict[int, str]) -> str:
    """One segment; fields by number."""
    return "|".join([name, *(fields.get(n, "") for n in range(1, 1 + max(fields, default=0)))])


def message(kind: str, *segments: str, **header: Any) -> bytes:
    """MSH and segments; `control`, `sender`, `charset`, `version`, `processing`, `at`, and `codec` for the bytes."""
    fields = {
        3: header.get("sender", "HIS"), 4: "BVA", 5: "RIS", 6: "SANGLOC", 7: header.get("at", "20261122070000"),
        9: kind, 10: header.get("control") or f"C{next(_numbers)}", 11: header.get("processing", "P"),
        12: header.get("version", "2.5"), 18: header.get("charset", "UNICODE UTF-8"),
    }  # fmt: skip
    first = "MSH|^~\\&|" + "|".join(fields.get(n, "") for n in range(3, 19))
    return "\r".join((first, *segments, "")).encode(header.get("codec", "utf-8"))


def pid(patient: str = "BN77", name: str = "Nguyễn^Văn^An", birth: str = "19610430", sex: str = "M") -> str:
    return segment("PID", {1: "1", 3: f"{patient}^^^HIS^PI", 5: name, 7: birth, 8: sex})


def order(
    control: str = "NW", *, placer: str = "PL1", accession: str = "A100", priority: str = "R", modality: str = "DX",
    start: str = "202611221030", state: str = "", study_uid: str = "", patient: str | None = None, **fields: str
) -> tuple[str, ...]:  # fmt: skip
    """PID, PV1, ORC, TQ1, OBR, ZDS of one order; further OBR fields as obr4='...'."""
    obr = {1: "1", 2: f"{placer}^HIS", 4: "XR1^Ngực thẳng^L", 18: accession, 24: modality}
    obr |= {int(key[3:]): value for key, value in fields.items()}
    found = [
        patient or pid(),
        segment("PV1", {1: "1", 2: "O", 3: "KHOA^P3^G2", 8: "^Trần^Thị B", 19: "V123"}),
        segment("ORC", {1: control, 2: f"{placer}^HIS", 5: state, 12: "^Lê^Văn C"}),
        segment("TQ1", {1: "1", 7: start, 9: priority}),
        segment("OBR", obr),
    ]
    return (*found, segment("ZDS", {1: study_uid})) if study_uid else tuple(found)


def orm(control: str = "NW", *, header: dict[str, Any] | None = None, **what: Any) -> bytes:
    """An ORM^O01 with one order."""
    return message("ORM^O01", *order(control, **what), **(header or {}))


class Ack:
    """An acknowledgment, taken apart."""

    def __init__(self, raw: bytes) -> None:
        self.text = raw.decode(errors="replace")
        self.rows = {line[:3]: line.split("|") for line in self.text.split("\r") if line}

    def field(self, name: str, number: int) -> str:
        row = self.rows.get(name, [])
        at = number - (name == "MSH")
        return row[at] if at < len(row) else ""

    @property
    def code(self) -> str:
        return self.field("MSA", 1)

    @property
    def reason(self) -> str:
        return self.field("MSA", 3)

    @property
    def error(self) -> str:
        """Number of HL7 table 0357."""
        return self.field("ERR", 3).split("^")[0]


class Sender:
    """One MLLP connection."""

    def __init__(self, port: int, timeout_s: float = 10.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self._held = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, data: bytes) -> Ack:
        self.send(b"\x0b" + data + b"\x1c\r")
        return self.answer()

    def answer(self) -> Ack:
        """The next acknowledgment; raises ConnectionError when the connection ends before it."""
        while b"\x1c\r" not in self._held:
            part = self.socket.recv(65536)
            if not part:
                raise ConnectionError("closed")
            self._held += part
        raw, _, self._held = self._held.partition(b"\x1c\r")
        assert raw.startswith(b"\x0b")
        return Ack(raw[1:])

    def closed(self) -> bool:
        """Whether the listener hangs up, without another answer."""
        try:
            return self.socket.recv(65536) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
