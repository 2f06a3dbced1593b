"""Coverage-guided fuzzing of the PDU reader: what a peer may send before, within and after an association.

    .venv/bin/pip install atheris && .venv/bin/python tests/fuzz/fuzz_wire.py -max_total_time=60

The bytes come over a socket pair to both sides of an association. What is understood must not depend on how the bytes
are cut, nor on the size of the buffer; nothing but an error of the wire may be raised, and nothing may hang.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["pacs.dimse.wire", "pacs.dimse.command", "pacs.dimse.proposal"]):
    from pacs.dimse import command as dimse
    from pacs.dimse import wire as w
    from pacs.dimse.contexts import STUDY_ROOT_FIND, VERIFICATION, negotiate
    from pacs.dimse.proposal import Proposal, associate_request, read_accept, read_reject
    from storage.errors import ObjectTooLarge

w._LEAST_ROOM = 16  # small buffers, so that small inputs come around their ends
MAX_PDU, LIMIT = 256, 64
SMALL, LARGE = w.BufferPool(64), w.BufferPool(8192)
PROPOSALS = [Proposal(VERIFICATION, ("1.2.840.10008.1.2",)), Proposal(STUDY_ROOT_FIND, ("1.2.840.10008.1.2.1",))]


class Cut(socket.socket):
    """A socket that gives at most `step` bytes at a time, and has no TCP."""

    step = 1

    def recv_into(self, buffer: memoryview, *_: int) -> int:  # type: ignore[override]
        return super().recv_into(buffer, min(len(buffer), self.step))

    def setsockopt(self, level: int, *rest: object) -> None:  # type: ignore[override]
        if level != socket.IPPROTO_TCP:
            super().setsockopt(level, *rest)  # type: ignore[call-overload]


def talk(data: bytes, step: int, pool: w.BufferPool) -> list[object]:
    """What is understood of these bytes, and how it ends."""
    peer, end = socket.socketpair()
    sock = Cut(fileno=end.detach())
    sock.step = step
    wire = w.Wire(sock, pool, max_pdu_bytes=MAX_PDU, timeout_s=2)
    said: list[object] = []
    try:
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        wire.within(2)
        said.append(wire.pdu(w.ASSOCIATE_RQ, w.ASSOCIATE_AC, w.ASSOCIATE_RJ))
        wire.within(None)
        while True:
            said.append(message(wire))
    except w.ProtocolError as error:
        said.append((type(error), error.reason))
    except w.PeerTimeoutError:
        raise AssertionError("the peer has sent all it had, and we wait") from None
    except w.WireError as error:
        said.append(type(error))
    finally:
        wire.close()
        peer.close()
    return said


def message(wire: w.Wire) -> object:
    got = bytearray()

    def sink(parts: Sequence[memoryview]) -> None:
        for part in parts:
            got.extend(part)

    wire.wait(2)
    context_id, raw = wire.command()
    command = dimse.decode(context_id, raw)
    dimse.decode(context_id, dimse.response(command, 0, "\\"))
    if command.has_data_set:
        try:
            assert wire.data_set(context_id, sink, LIMIT) == len(got)
        except ObjectTooLarge:
            got = bytearray(b"too large")
    return command, bytes(got)


def one(data: bytes) -> None:
    step, rest = (data[0] % 13 + 1, data[1:]) if data else (1, b"")
    said = talk(rest, step, SMALL)
    assert said == (whole := talk(rest, 1 << 16, LARGE)), (said, whole)
    if said and isinstance(said[0], tuple) and isinstance(said[0][1], bytes):
        _, body = said[0]
        read_reject(body)
        with contextlib.suppress(w.ProtocolError):
            read_accept(body, PROPOSALS)
        with contextlib.suppress(w.ProtocolError):
            negotiate.__wrapped__(body, max_pdu_bytes=MAX_PDU, allow_private=True)


def prepare() -> Path:
    """A folder of first inputs: conversations that are right."""
    request = associate_request("SANGLOC", "FUZZ", PROPOSALS, 4096)
    answer = negotiate(request[6:], max_pdu_bytes=MAX_PDU, allow_private=True).accept_pdu
    elements = {dimse.AFFECTED_SOP_CLASS: b"1.2", dimse.COMMAND_FIELD: 1, dimse.MESSAGE_ID: 1}
    store = w.Wire.message(1, dimse.encode({**elements, dimse.DATA_SET_TYPE: 1}), 60, bytes(range(60)))
    large = w.Wire.message(3, dimse.encode({**elements, dimse.DATA_SET_TYPE: 1}), 0, bytes(100))
    echo = w.Wire.message(1, dimse.encode({**elements, dimse.DATA_SET_TYPE: 0x0101}), 0)
    ends = (b"\5\0\0\0\0\4\0\0\0\0", struct.pack(">BxIxxBB", w.ABORT, 4, 2, 6), b"")
    folder = Path(tempfile.mkdtemp(prefix="fuzz_wire_"))
    for number, end in enumerate(ends):
        for n, opening in enumerate((request, answer, struct.pack(">BxIxBBB", 3, 4, 1, 1, 7))):
            (folder / f"talk{number}{n}").write_bytes(
                bytes((number * 5,)) + opening + store + echo + large + echo + end
            )
    return folder


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of pydicom and pynetdicom about what stands in a proposal
    logging.disable()
    atheris.Setup([*sys.argv, "-max_len=2048", "-timeout=10", str(prepare())], one)
    atheris.Fuzz()
