"""Where objects are sent to: DCMTK's storescp, and destinations that refuse, stall or die."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from dcmtk import find

from pacs.part10 import read_head


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def data_set_of(path: Path) -> bytes:
    """The bytes of a file behind its file meta."""
    with path.open("rb") as file:
        head = read_head(file)
    assert head is not None
    return path.read_bytes()[head.dataset_offset :]


def transfer_syntax_of(path: Path) -> str:
    """The transfer syntax that the file meta names."""
    with path.open("rb") as file:
        head = read_head(file)
    assert head is not None
    return head.transfer_syntax


@contextlib.contextmanager
def storescp(folder: Path, *options: str, aet: str = "DEST") -> Iterator[int]:
    """DCMTK's storescp that keeps what it gets, bit by bit, in `folder`; its port."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [find("storescp") or "storescp", "-v", "+B", "-aet", aet, "-od", str(folder), *options, str(port)]
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(port)
        yield port
    finally:
        process.kill()
        process.wait()


def wait_for(port: int, seconds: float = 60) -> None:
    """Wait until somebody listens on the port."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < deadline, f"nobody listens on {port}"
            time.sleep(0.02)
        else:
            return


class Faulty:
    """A destination that takes associations and then misbehaves, as often as it is called.

    Args:
        mode: 'reject' (A-ASSOCIATE-RJ), 'stall' (reads nothing after the association), 'mute' (reads, never answers),
            'die' (closes within the first object), 'abort' (A-ABORT within the first object).
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.calls = 0
        self._listen = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listen.getsockname()[1])
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Faulty:
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(OSError):
            self._listen.shutdown(socket.SHUT_RDWR)
        self._listen.close()
        for sock in self._open:
            sock.close()
        self._thread.join(5)

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listen.accept()
            except OSError:
                return
            self._open.append(sock)
            self.calls += 1
            with contextlib.suppress(OSError):
                self._misbehave(sock)

    def _misbehave(self, sock: socket.socket) -> None:
        sock.settimeout(10)
        kind, body = read_pdu(sock)
        assert kind == 1
        if self.mode == "reject":
            sock.sendall(struct.pack(">BxIxBBB", 3, 4, 1, 1, 7))
            return
        sock.sendall(accept_all(body))
        if self.mode == "stall":
            return
        if self.mode == "mute":
            threading.Thread(target=drain, args=(sock,), daemon=True).start()
            return
        sock.recv(3000)
        if self.mode == "abort":
            sock.sendall(struct.pack(">BxIxxBB", 7, 4, 2, 0))
        sock.close()


def drain(sock: socket.socket) -> None:
    """Read until the peer closes."""
    sock.settimeout(None)
    with contextlib.suppress(OSError):
        while sock.recv(1 << 16):
            pass


def read_pdu(sock: socket.socket) -> tuple[int, bytes]:
    """Type and body of the next PDU."""
    kind, length = struct.unpack(">BxI", exactly(sock, 6))
    return kind, exactly(sock, length)


def exactly(sock: socket.socket, count: int) -> bytes:
    """So many bytes; raises ConnectionError at the end of the connection."""
    out = b""
    while len(out) < count:
        part = sock.recv(count - len(out))
        if not part:
            raise ConnectionError
        out += part
    return out


def accept_all(body: bytes, max_pdu: int = 16384) -> bytes:
    """An A-ASSOCIATE-AC that takes every context with its first transfer syntax (PS3.8 9.3.3)."""

    def item(kind: int, value: bytes) -> bytes:
        return struct.pack(">BxH", kind, len(value)) + value

    out, at = item(0x10, b"1.2.840.10008.3.1.1.1"), 68
    while at + 4 <= len(body):
        kind, length = struct.unpack_from(">BxH", body, at)
        value = body[at + 4 : at + 4 + length]
        at += 4 + length
        if kind == 0x20:
            inner = 4
            while value[inner] != 0x40:
                inner += 4 + struct.unpack_from(">H", value, inner + 2)[0]
            size = struct.unpack_from(">H", value, inner + 2)[0]
            out += item(0x21, bytes((value[0], 0, 0, 0)) + value[inner : inner + 4 + size])
    out += item(0x50, item(0x51, struct.pack(">I", max_pdu)) + item(0x52, b"1.2.3"))
    return struct.pack(">BxI", 2, 68 + len(out)) + body[:68] + out
