"""One association from its first byte to its last (PS3.8 9.2): negotiation, messages to services, release, abort."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NoReturn

import structlog

from pacs.dimse import command as dimse
from pacs.dimse import wire as w
from pacs.dimse.command import Command
from pacs.dimse.contexts import APPLICATION_CONTEXT, Context, Negotiated, negotiate
from pacs.dimse.counters import Counters
from pacs.dimse.policy import ReceiverPolicy
from pacs.dimse.status import PROCESSING_FAILURE, UNRECOGNIZED_OPERATION, Status

if TYPE_CHECKING:
    from pacs.ingest import Ingest
    from storage.database import Database
    from storage.errors import SanglocError

__all__ = ["Association", "Handler", "Phase", "Rejection", "Shared"]

log = structlog.get_logger()

Handler = Callable[["Association", Command], None]

_AE_FIELDS = struct.Struct(">HH16s16s32x")
_RELEASE_RP = b"\x06\0\0\0\0\x04\0\0\0\0"


class Rejection(Enum):
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

    APPLICATION_CONTEXT = (1, 1, 2)
    CALLING_TITLE = (1, 1, 3)
    CALLED_TITLE = (1, 1, 7)
    PROTOCOL_VERSION = (1, 2, 2)
    STOPPING = (2, 3, 1)  # temporary congestion
    LIMIT = (2, 3, 2)  # local limit exceeded


class Phase(Enum):
    """What an association does, for the receiver that limits and drains."""

    OPENING = "no association yet"
    IDLE = "between two messages"
    BUSY = "within a message"
    CLOSING = "waits for the peer to close"


@dataclass(frozen=True, slots=True)
class Shared:
    """What all associations of a process have in common."""

    ingest: Ingest
    policy: ReceiverPolicy
    services: Mapping[int, Handler]  # by the command field of the request
    admit: Callable[[], Rejection | None]  # counts a new association, or says why there is none
    leave: Callable[[], None]
    tls: ssl.SSLContext | None = None
    searches: Database | None = None  # connections for queries: what they do does not hold up storing
    counters: Counters = field(default_factory=Counters)
    pool: w.BufferPool = field(default_factory=w.BufferPool)


class Association:
    """Run by one thread, which calls `run` once; `cut` and `phase` are for the receiver's thread."""

    def __init__(self, sock: socket.socket, address: str, shared: Shared) -> None:
        self._sock = sock
        self._shared = shared
        self.address = address
        self.policy = shared.policy
        self.ingest = shared.ingest
        self.counters = shared.counters
        self.calling = self.called = ""
        self.phase = Phase.OPENING
        self.since = time.monotonic()
        self._wire: w.Wire | None = None
        self._agreed = Negotiated(b"", {}, 0, "")
        self._unread: Command | None = None  # the request whose data set was not read yet
        self._early: Command | None = None  # a request that came while another one was served
        self._cancelled: int | None = None  # Message ID of the operation that a C-CANCEL asks to end

    # ---- what services use

    @property
    def wire(self) -> w.Wire:
        """The connection."""
        assert self._wire is not None
        return self._wire

    def context(self, request: Command) -> Context:
        """The presentation context in which a request came."""
        return self._agreed.contexts[request.context_id]

    @property
    def buffers(self) -> w.BufferPool:
        """Where large buffers come from."""
        return self._shared.pool

    @property
    def searches(self) -> Database:
        """The index, for queries."""
        return self._shared.searches or self.ingest.database

    @property
    def contexts(self) -> Mapping[int, Context]:
        """The accepted presentation contexts by id."""
        return self._agreed.contexts

    @property
    def peer_max_pdu_bytes(self) -> int:
        """The longest PDU that the peer takes; 0: no limit."""
        return self._agreed.peer_max_pdu_bytes

    def options(self, sop_class: str) -> bytes:
        """What extended negotiation agreed on for a SOP class: its application information, b"" without."""
        return self._agreed.options.get(sop_class, b"")

    def cancelled(self, request: Command) -> bool:
        """Whether the peer has asked to end this operation (PS3.7 9.3.2.3); never waits."""
        while self._early is None and self._cancelled != request.message_id and self.wire.readable():
            self._note(self._next())
        return self._cancelled == request.message_id

    def response(self, message_id: int) -> Command:
        """Wait for the answer to a request of ours. Raises `PeerTimeoutError` and what `Wire.command` does.

        A C-CANCEL that comes before it is noted for `cancelled`.
        """
        while True:
            command = self._next()
            if command.field & dimse.RESPONSE:
                if command.responded_to != message_id:
                    raise w.ProtocolError(w.INVALID_PARAMETER, "a response to nothing that was asked")
                if command.has_data_set:
                    self.receive_data(command, lambda _: None)
                return command
            self._note(command)

    def _next(self) -> Command:
        """The next command set from the wire."""
        context_id, data = self.wire.command()
        if context_id not in self._agreed.contexts:
            raise w.ProtocolError(w.INVALID_PARAMETER, f"presentation context {context_id} was not accepted")
        return dimse.decode(context_id, data)

    def _note(self, command: Command) -> None:
        """Keep what came while an operation runs: a C-CANCEL, or one request for later."""
        if command.field == dimse.C_CANCEL_RQ:
            self._cancelled = command.responded_to
        elif self._early is None and not command.field & dimse.RESPONSE:
            self._early = command
        else:
            raise w.ProtocolError(w.INVALID_PARAMETER, "a message that has no place within an operation")

    def receive_data(self, request: Command, sink: w.Sink) -> int:
        """Hand the request's data set to `sink` as it comes; returns its bytes. Errors as in `Wire.data_set`."""
        self._unread = None
        return self.wire.data_set(request.context_id, sink, self.policy.max_object_bytes)

    def read_data(self, request: Command, limit_bytes: int, too_long: SanglocError) -> bytes:
        """The request's data set in memory, b"" without one; raises `too_long` for one of more than `limit_bytes`."""
        data = bytearray()

        def keep(parts: Sequence[memoryview]) -> None:
            if len(data) + sum(map(len, parts)) > limit_bytes:
                raise too_long
            for part in parts:
                data.extend(part)

        if request.has_data_set:
            self.receive_data(request, keep)
        return bytes(data)

    def respond(self, request: Command, status: Status, comment: str = "") -> None:
        """Answer a request with a status and no data set; its data set is read first if nobody did."""
        self.drop_data()
        self.send(request.context_id, dimse.response(request, status.code, comment))

    def send(self, context_id: int, command: bytes, data: bytes | None = None) -> None:
        """Send one message in PDUs that the peer takes."""
        self.wire.send_message(context_id, command, self._agreed.peer_max_pdu_bytes, data)

    def packed(self, context_id: int, command: bytes, data: bytes | None = None) -> bytes:
        """One message in PDUs that the peer takes, for a service that sends many at a time by `wire.send`."""
        return self.wire.message(context_id, command, self._agreed.peer_max_pdu_bytes, data)

    def drop_data(self) -> None:
        """Read past the current request's data set if nobody did."""
        if self._unread is not None:
            self.receive_data(self._unread, lambda _: None)

    # ---- life

    def run(self) -> None:
        """Serve the connection to its end. Nothing that a peer does raises."""
        try:
            self._wire = self._connect()
            if self._establish():
                try:
                    self._serve()
                finally:
                    self._shared.leave()
        except w.ReleaseRequestedError:
            self._release()
        except w.ProtocolError as error:
            self._abort(2, error.reason, str(error))
        except w.PeerTimeoutError:
            self._abort(2, 0, "peer was silent for too long")
        except w.PeerAbortedError:
            self._lost("association aborted by the peer")
        except w.ConnectionLostError:
            self._lost("connection lost")
        except Exception:
            log.exception("association failed", **self._who())
            self._abort(2, 0, "internal error")
        finally:
            self._close()

    def cut(self) -> None:
        """End the connection from another thread."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def _connect(self) -> w.Wire:
        policy = self.policy
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._shared.tls is not None:
            self._sock.settimeout(policy.artim_timeout_s)
            try:
                secure = self._shared.tls.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
                self._sock = secure
                secure.do_handshake()
            except OSError as error:
                log.info("tls handshake failed", address=self.address, error=str(error))
                raise w.ConnectionLostError from error
        return w.Wire(
            self._sock, self._shared.pool, max_pdu_bytes=policy.max_pdu_bytes, timeout_s=policy.network_timeout_s
        )

    def _establish(self) -> bool:
        """Answer the A-ASSOCIATE-RQ; False when it was rejected."""
        self.wire.within(self.policy.artim_timeout_s)
        request = self.wire.control(w.ASSOCIATE_RQ)
        self.wire.within(None)
        if len(request) < _AE_FIELDS.size:
            raise w.ProtocolError(w.INVALID_PARAMETER, "A-ASSOCIATE-RQ is too short")
        version, _, called, calling = _AE_FIELDS.unpack_from(request)
        self.called, self.calling = (t.decode("ascii", "backslashreplace").strip() for t in (called, calling))
        rejection = self._judge(version, request) or self._shared.admit()
        if rejection is not None:
            self._reject(rejection)
            return False
        self._enter(Phase.BUSY)
        try:
            self._agreed = negotiate(
                request,
                max_pdu_bytes=self.policy.max_pdu_bytes,
                allow_private=self.policy.allow_private_sop_classes,
            )
            self.wire.send(self._agreed.accept_pdu)
        except BaseException:
            self._shared.leave()
            raise
        self.counters.add("associations")
        log.debug("association accepted", contexts=len(self._agreed.contexts), **self._who())
        return True

    def _judge(self, version: int, request: bytes) -> Rejection | None:
        if not version & 1:
            return Rejection.PROTOCOL_VERSION
        if not self.policy.knows_called(self.called):
            return Rejection.CALLED_TITLE
        if not self.policy.knows_calling(self.calling, self.address):
            return Rejection.CALLING_TITLE
        name = APPLICATION_CONTEXT.encode()
        if b"\x10\0" + len(name).to_bytes(2, "big") + name not in request[_AE_FIELDS.size :]:
            return Rejection.APPLICATION_CONTEXT
        return None

    def _serve(self) -> NoReturn:
        """Messages until the association ends, which raises."""
        while True:
            self._enter(Phase.IDLE)
            request, self._early = self._early, None
            if request is None:
                self.wire.wait(self.policy.idle_timeout_s)
                request = self._next()
            self._cancelled = None
            self._handle(request)

    def _handle(self, request: Command) -> None:
        self._enter(Phase.BUSY)
        self._unread = request if request.has_data_set else None
        if request.field & dimse.RESPONSE:
            raise w.ProtocolError(w.INVALID_PARAMETER, "a response to nothing that was asked")
        handler = self._shared.services.get(request.field, _unknown)
        try:
            handler(self, request)
        except w.WireError:
            raise
        except Exception:
            log.exception("request failed", command_field=f"{request.field:04X}", **self._who())
            self.respond(request, PROCESSING_FAILURE)
        self.drop_data()

    def _enter(self, phase: Phase) -> None:
        self.phase, self.since = phase, time.monotonic()

    # ---- the end

    def _release(self) -> None:
        with contextlib.suppress(w.WireError):
            self.wire.send(_RELEASE_RP)
            self._linger()

    def _reject(self, rejection: Rejection) -> None:
        self.counters.add("rejected")
        log.warning("association rejected", reason=rejection.name.lower(), **self._who())
        self.wire.send(struct.pack(">BxIxBBB", 3, 4, *rejection.value))
        self._linger()

    def _abort(self, source: int, reason: int, why: str) -> None:
        self.counters.add("aborted")
        level = log.warning if self._agreed.contexts else log.info  # a port scanner is no event
        level("association aborted", reason=why, **self._who())
        if self._wire is not None:
            with contextlib.suppress(w.WireError):
                self._wire.send(struct.pack(">BxIxxBB", w.ABORT, 4, source, reason))
                self._linger()

    def _linger(self) -> None:
        """Wait for the peer to close, as the ARTIM timer allows (PS3.8 9.2.3, Sta13)."""
        self._enter(Phase.CLOSING)
        self.wire.give_buffer_back()
        self.wire.linger(self.policy.artim_timeout_s)

    def _lost(self, event: str) -> None:
        if self._agreed.contexts:
            self.counters.add("aborted")
            log.warning(event, within_message=self.phase is Phase.BUSY, **self._who())

    def _close(self) -> None:
        if self._wire is not None:
            self._wire.close()
        with contextlib.suppress(OSError):
            self._sock.close()

    def _who(self) -> dict[str, str]:
        return {"calling": self.calling, "called": self.called, "address": self.address}


def _unknown(association: Association, request: Command) -> None:
    log.warning("unknown operation", command_field=f"{request.field:04X}", calling=association.calling)
    association.respond(request, UNRECOGNIZED_OPERATION)
