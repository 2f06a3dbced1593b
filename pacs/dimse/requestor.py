"""An association that we ask for: echo, C-STORE to others, their queries, commitment reports."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Self

from pacs.dimse import command as dimse
from pacs.dimse import wire as w
from pacs.dimse.buffers import BufferPool
from pacs.dimse.command import Command
from pacs.dimse.contexts import VERIFICATION, Context
from pacs.dimse.policy import CallerPolicy
from pacs.dimse.proposal import Accepted, Proposal, associate_request, read_accept, read_reject
from pacs.dimse.tls import client_context
from storage.errors import InvalidInput, PeerRefused, PeerUnavailable
from storage.peers import Peer

__all__ = ["EXPLICIT", "IMPLICIT", "CallerPolicy", "Requestor", "echo", "echo_on", "pool"]

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"

pool = BufferPool()
_RELEASE_RQ = b"\x05\0\0\0\0\x04\0\0\0\0"
_ABORT = b"\x07\0\0\0\0\x04\0\0\0\0"
_RELEASE_S = 5.0
_MAX_MESSAGE_BYTES = 16 << 20  # of a data set that is kept in memory: an identifier, a report


class Requestor:
    """One association as requestor; a context manager, used by one thread.

    Entering connects and negotiates; leaving releases, or aborts when an error leaves.

    Args:
        peer: whom to call; it must have a DIMSE address.
        policy: how.
        proposals: the presentation contexts, at most 128.
        tick: called about once a second while the peer keeps us waiting; what it raises ends the wait.

    Raises (every method):
        PeerUnavailable: nobody answers, the connection broke, or the peer was silent for too long.
        PeerRefused: the association is rejected, or nothing that was proposed is accepted.
    """

    def __init__(
        self,
        peer: Peer,
        policy: CallerPolicy,
        proposals: Sequence[Proposal],
        *,
        tick: Callable[[], None] | None = None,
    ) -> None:
        if not peer.has_dimse:
            raise InvalidInput(f"The peer {peer.name} has no AE title, host and port.")
        self.peer, self.policy = peer, policy
        self._proposals, self._tick = proposals, tick
        self._accepted = Accepted({}, 0)
        self._sock: socket.socket | None = None
        self._wire: w.Wire | None = None
        self._message_id = 0

    @property
    def contexts(self) -> Mapping[int, Context]:
        """The accepted presentation contexts by id."""
        return self._accepted.contexts

    @property
    def peer_max_pdu_bytes(self) -> int:
        """The longest PDU that the peer takes; 0: no limit."""
        return self._accepted.peer_max_pdu_bytes

    @property
    def alive(self) -> bool:
        """Whether the association stands, as far as we know."""
        return self._wire is not None

    @property
    def wire(self) -> w.Wire:
        """The connection."""
        if self._wire is None:
            raise PeerUnavailable("The association has ended.")
        return self._wire

    def context_id(self, abstract_syntax: str) -> int:
        """The first accepted context of this abstract syntax; raises `PeerRefused`."""
        for number, context in self.contexts.items():
            if context.abstract_syntax == abstract_syntax:
                return number
        raise PeerRefused(f"{self.peer.name} does not accept {abstract_syntax}.")

    def next_message_id(self) -> int:
        """A message id that no outstanding request has."""
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def send(self, context_id: int, elements: Mapping[int, int | bytes], data: bytes | None = None) -> int:
        """Send a request (its message id is added) or a response with its data set; returns the message id, or 0."""
        message_id = 0 if dimse.RESPONDED_TO in elements else self.next_message_id()
        named = {dimse.MESSAGE_ID: message_id} if message_id else {}
        command = dimse.encode({**elements, **named, dimse.DATA_SET_TYPE: 0x0101 if data is None else 1})
        with self.translated():
            self.wire.send_message(context_id, command, self.peer_max_pdu_bytes, data)
        return message_id

    def receive(self) -> tuple[Command, bytes | None]:
        """The next message, a response or a request of the peer's, with its data set."""
        with self.translated():
            context_id, raw = self.wire.command()
            if context_id not in self.contexts:
                raise w.ProtocolError(w.INVALID_PARAMETER, f"presentation context {context_id} was not accepted")
            command = dimse.decode(context_id, raw)
            if not command.has_data_set:
                return command, None
            parts: list[bytes] = []
            self.wire.data_set(context_id, lambda views: parts.extend(map(bytes, views)), _MAX_MESSAGE_BYTES)
            return command, b"".join(parts)

    def request(self, context_id: int, elements: Mapping[int, int | bytes], data: bytes | None = None) -> Command:
        """Send a request and wait for its one response, whose data set is dropped."""
        message_id = self.send(context_id, elements, data)
        return self.response(message_id)

    def response(self, message_id: int) -> Command:
        """Wait for the response to a request, which has a status; its data set is dropped."""
        command, _ = self.receive()
        if not command.field & dimse.RESPONSE or command.responded_to != message_id:
            self.abort()
            raise PeerUnavailable(f"{self.peer.name} answers what was not asked.")
        if command.number(dimse.STATUS) is None:  # no success: nobody has said so
            self.abort()
            raise PeerUnavailable(f"{self.peer.name} answers without a status.")
        return command

    # ---- life

    def __enter__(self) -> Self:
        try:
            with self.translated():
                self._wire = self._connect()
                self._negotiate()
        except BaseException:
            self.abort()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.release()
        else:
            self.abort()

    def release(self) -> None:
        """End the association in good order; never raises for what the peer does."""
        with contextlib.suppress(w.WireError, PeerUnavailable):
            self.wire.send(_RELEASE_RQ)
            self.wire.within(_RELEASE_S)
            self.wire.pdu(w.RELEASE_RP)
        self._close()

    def abort(self) -> None:
        """End the association at once."""
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.setblocking(False)  # a peer that reads nothing does not get it
                self._sock.send(_ABORT)
        self._close()

    def _close(self) -> None:
        if self._wire is not None:
            self._wire.close()
        if self._sock is not None:
            self._sock.close()
        self._wire = self._sock = None

    def _connect(self) -> w.Wire:
        peer, policy = self.peer, self.policy
        try:
            self._sock = socket.create_connection((peer.host, peer.port), policy.connect_timeout_s)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except (OSError, UnicodeError) as error:
            raise PeerUnavailable(f"{peer.name} at {peer.host}:{peer.port} does not answer: {error}") from error
        if peer.tls:
            context = client_context(policy.certificate, policy.key, policy.authorities)
            try:
                self._sock = context.wrap_socket(self._sock, server_hostname=peer.host)
            except (OSError, ValueError) as error:
                raise PeerUnavailable(f"TLS with {peer.name} failed: {error}") from error
        wire = w.Wire(self._sock, pool, max_pdu_bytes=policy.max_pdu_bytes, timeout_s=policy.timeout_s)
        if self._tick is not None:
            wire.attend(self._tick)
        return wire

    def _negotiate(self) -> None:
        policy = self.policy
        self.wire.send(associate_request(self.peer.aet, policy.ae_title, self._proposals, policy.max_pdu_bytes))
        kind, body = self.wire.pdu(w.ASSOCIATE_AC, w.ASSOCIATE_RJ)
        if kind == w.ASSOCIATE_RJ:
            for_good, reason = read_reject(body)
            raise PeerRefused(f"{self.peer.name} rejects the association{'' if for_good else ' for now'}: {reason}")
        self._accepted = read_accept(body, self._proposals)
        if not self._accepted.contexts:
            raise PeerRefused(f"{self.peer.name} accepts none of the presentation contexts")

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Errors of the wire as `PeerUnavailable`; the connection is closed, since nothing can follow them."""
        try:
            yield
        except w.WireError as error:
            self.abort()
            raise PeerUnavailable(f"{self.peer.name} {_what(error)}") from error


def echo(peer: Peer, policy: CallerPolicy) -> int:
    """The status of a C-ECHO on an association of its own (PS3.4 A). Raises as `Requestor`."""
    with Requestor(peer, policy, [Proposal(VERIFICATION, (IMPLICIT, EXPLICIT))]) as association:
        return echo_on(association)


def echo_on(association: Requestor) -> int:
    """The status of a C-ECHO on an association that has a context for it. Raises as `Requestor`."""
    answer = association.request(
        association.context_id(VERIFICATION),
        {dimse.AFFECTED_SOP_CLASS: VERIFICATION.encode(), dimse.COMMAND_FIELD: dimse.C_ECHO_RQ},
    )
    return answer.number(dimse.STATUS) or 0


def _what(error: w.WireError) -> str:
    if isinstance(error, w.PeerTimeoutError):
        return "was silent for too long"
    if isinstance(error, w.PeerAbortedError):
        return "aborted the association"
    if isinstance(error, w.ReleaseRequestedError):
        return "wants to end the association"
    if isinstance(error, w.ProtocolError):
        return f"breaks the protocol: {error}"
    return "closed the connection"
