"""A client of C-GET and C-MOVE that keeps what it gets and every answer, and may cancel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from pacs import identifiers
from pacs.dimse import command as dimse
from pacs.dimse.command import Command
from pacs.dimse.contexts import PATIENT_ROOT_GET, PATIENT_ROOT_MOVE, STUDY_ROOT_GET, STUDY_ROOT_MOVE
from pacs.dimse.policy import CallerPolicy
from pacs.dimse.proposal import Proposal
from pacs.dimse.requestor import IMPLICIT, Requestor
from pacs.ingest import Ingest
from pacs.part10 import read_head
from pacs.retrieve import StoredInstance, stored_instances
from storage.peers import Peer, put

KEYS = {"patient": 0x00100020, "study": 0x0020000D, "series": 0x0020000E, "image": 0x00080018}
_DESTINATION, _REMAINING, _COMPLETED, _FAILED, _WARNING = 0x0600, 0x1020, 0x1021, 0x1022, 0x1023
_PENDING = 0xFF00


@dataclass
class Outcome:
    """What came of one retrieval."""

    status: int
    completed: int
    failed: int
    warnings: int
    remaining: int | None
    failed_uids: list[str] = field(default_factory=list)
    pending: list[tuple[int, int, int, int]] = field(default_factory=list)  # remaining, completed, failed, warnings
    got: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # SOP Instance UID -> transfer syntax, data set
    comment: str = ""


class Retriever:
    """One association; a context manager."""

    def __init__(self, port: int, contexts: Sequence[tuple[str, Sequence[str]]] = (), **policy: Any) -> None:
        models = (STUDY_ROOT_GET, STUDY_ROOT_MOVE, PATIENT_ROOT_GET, PATIENT_ROOT_MOVE)
        proposals = [
            *(Proposal(uid, (IMPLICIT,)) for uid in models),
            *(Proposal(uid, tuple(syntaxes), as_scp=True) for uid, syntaxes in contexts),
        ]
        peer = Peer(name="archive", aet="SANGLOC", host="127.0.0.1", port=port)
        self.association = Requestor(peer, CallerPolicy(**{"ae_title": "RETRIEVER", **policy}), proposals)
        self.answer: Callable[[Command], int] = lambda _: 0  # the status of each C-STORE that we are asked for
        self.cancel_after: int | None = None  # so many objects

    def __enter__(self) -> Retriever:
        self.association.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.association.__exit__(*exc)

    def get(self, level: str, *, patient_root: bool = False, **keys: str | list[str]) -> Outcome:
        """C-GET; the keys are `patient`, `study`, `series`, `image`."""
        model = PATIENT_ROOT_GET if patient_root else STUDY_ROOT_GET
        return self._run(model, {dimse.COMMAND_FIELD: dimse.C_GET_RQ}, level, keys)

    def move(self, destination: str, level: str, *, patient_root: bool = False, **keys: str | list[str]) -> Outcome:
        """C-MOVE; the keys as for `get`."""
        model = PATIENT_ROOT_MOVE if patient_root else STUDY_ROOT_MOVE
        title = destination.encode() + b" " * (len(destination) % 2)
        return self._run(model, {dimse.COMMAND_FIELD: dimse.C_MOVE_RQ, _DESTINATION: title}, level, keys)

    def start_move(self, destination: str, level: str, **keys: str | list[str]) -> int:
        """Send a C-MOVE request only; its message id."""
        title = destination.encode() + b" " * (len(destination) % 2)
        return self._ask(STUDY_ROOT_MOVE, {dimse.COMMAND_FIELD: dimse.C_MOVE_RQ, _DESTINATION: title}, level, keys)

    def cancel(self, message_id: int, model: str = STUDY_ROOT_MOVE) -> None:
        """C-CANCEL for an operation."""
        elements = {dimse.COMMAND_FIELD: dimse.C_CANCEL_RQ, dimse.RESPONDED_TO: message_id}
        self.association.send(self.association.context_id(model), elements)

    def raw(self, model: str, field_: int, data: bytes | None, **more: Any) -> Outcome:
        """A request with any identifier."""
        elements: dict[int, int | bytes] = {
            dimse.AFFECTED_SOP_CLASS: model.encode(), dimse.COMMAND_FIELD: field_, 0x0700: 0, **more.get("elements", {})
        }  # fmt: skip
        return self.outcome(self.association.send(self.association.context_id(model), elements, data), model)

    def _run(
        self, model: str, command: dict[int, int | bytes], level: str, keys: dict[str, str | list[str]]
    ) -> Outcome:
        return self.outcome(self._ask(model, command, level, keys), model)

    def _ask(self, model: str, command: dict[int, int | bytes], level: str, keys: dict[str, str | list[str]]) -> int:
        elements = {dimse.AFFECTED_SOP_CLASS: model.encode(), 0x0700: 0, **command}
        return self.association.send(self.association.context_id(model), elements, identifier(level, **keys))

    def outcome(self, message_id: int, model: str = STUDY_ROOT_MOVE) -> Outcome:
        """Take what comes until the final answer to a request."""
        pending: list[tuple[int, int, int, int]] = []
        got: dict[str, tuple[str, bytes]] = {}
        while True:
            command, data = self.association.receive()
            if command.field == dimse.C_STORE_RQ:
                assert data is not None
                syntax = self.association.contexts[command.context_id].transfer_syntax
                got[command.uid(dimse.AFFECTED_SOP_INSTANCE)] = (syntax, data)
                self._respond(command)
                if len(got) == self.cancel_after:
                    self.cancel(message_id, model)
                continue
            assert command.responded_to == message_id
            numbers = [command.number(tag) for tag in (_COMPLETED, _FAILED, _WARNING)]
            if command.number(dimse.STATUS) == _PENDING:
                pending.append((command.number(_REMAINING) or 0, *(n or 0 for n in numbers)))
                continue
            uids = identifiers.read(data, IMPLICIT)[0x00080058].values if data else []
            comment = command.elements.get(dimse.ERROR_COMMENT, b"").decode().strip()
            return Outcome(
                command.number(dimse.STATUS) or 0,
                *(n or 0 for n in numbers),
                command.number(_REMAINING),
                [str(uid) for uid in uids],
                pending,
                got,
                comment,
            )

    def _respond(self, command: Command) -> None:
        answer = dimse.response(command, self.answer(command))
        self.association.wire.send_message(command.context_id, answer, self.association.peer_max_pdu_bytes)


def identifier(level: str, **keys: str | list[str]) -> bytes:
    """An identifier in implicit VR little endian."""
    elements = {0x00080052: identifiers.Element("CS", [level])} if level else {}
    for name, value in keys.items():
        vr = "LO" if name == "patient" else "UI"
        elements[KEYS[name]] = identifiers.Element(vr, [value] if isinstance(value, str) else value)
    return identifiers.write(dict(sorted(elements.items())), IMPLICIT, "")


def take_in(ingest: Ingest, file: Path | bytes) -> StoredInstance:
    """Store a Part 10 file as it is, and what the archive says of it."""
    content = file if isinstance(file, bytes) else file.read_bytes()
    head = read_head(BytesIO(content))
    assert head is not None
    with ingest.receive(
        sop_class=head.sop_class,
        sop_uid=head.sop_uid,
        transfer_syntax=head.transfer_syntax,
        source_aet="TEST",
        source_address="",
    ) as incoming:
        incoming.write([content[head.dataset_offset :]])
        incoming.commit()
    with ingest.database.autocommit() as connection:
        (found,) = stored_instances(connection, sop_uids=head.sop_uid)
    return found


def register(ingest: Ingest, port: int, aet: str = "DEST", **more: Any) -> None:
    """Put a destination on this machine into the AE registry."""
    with ingest.database.transaction() as connection:
        put(connection, Peer(name=aet.lower(), aet=aet, host="127.0.0.1", port=port, **more), "test")
