"""Storage commitment push model (PS3.4 J): requests to us (N-ACTION), and reports on what we asked (N-EVENT-REPORT).

A request is durable before it is answered. Then the receiver checks the instances itself; when that was quick and the
peer keeps the association open without a word, the report goes over it. In all other cases, a crash included, the
exchange process checks and reports on an association of its own (`pacs.reporting`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import structlog

from pacs import committing
from pacs.committing import MAX_REQUEST_BYTES, PUSH_MODEL, PUSH_MODEL_INSTANCE, Report
from pacs.dimse import command as dimse
from pacs.dimse import normalized
from pacs.dimse import wire as w
from pacs.dimse.normalized import ACTION_TYPE, EVENT_TYPE, N_EVENT_REPORT_RQ, REQUESTED_SOP_INSTANCE
from pacs.dimse.status import (
    DUPLICATE_TRANSACTION,
    INVALID_ARGUMENT,
    NO_SUCH_ACTION,
    NO_SUCH_EVENT,
    NO_SUCH_INSTANCE,
    NO_SUCH_SOP_CLASS,
    PROCESSING_FAILURE,
    RESOURCE_LIMITATION,
    SUCCESS,
    Status,
)
from storage import commitment, forwarding
from storage.commitment import Asked
from storage.errors import Conflict, InvalidInput, SanglocError, Unavailable

if TYPE_CHECKING:
    from pacs.dimse.association import Association
    from pacs.dimse.command import Command

__all__ = ["commit", "event_command", "take_report"]

log = structlog.get_logger()

_CHECK_S = 5.0  # a longer check is left to the exchange process: the receiver is for receiving
_SILENCE_S = 0.3  # of a peer that waits for the report; one that is done releases sooner
_REQUEST_COMMITMENT = 1  # action type (PS3.4 J.3.2.1.1)
_EVENT_TYPES = (1, 2)  # all committed; failures exist (PS3.4 J.3.3.1.1)

_STATUS_OF: tuple[tuple[type[SanglocError], Status], ...] = (
    (Conflict, DUPLICATE_TRANSACTION),
    (InvalidInput, INVALID_ARGUMENT),
    (Unavailable, RESOURCE_LIMITATION),
    (SanglocError, PROCESSING_FAILURE),
)


class _Kept(NamedTuple):
    """A request that is durable."""

    pk: int
    transaction_uid: str
    asked: list[Asked]


def commit(association: Association, request: Command) -> None:
    """Answer an N-ACTION (PS3.4 J.3.2), then check and, where it is quick, report."""
    refusal = _refusal(association, request, ACTION_TYPE, (_REQUEST_COMMITMENT,), NO_SUCH_ACTION)
    if refusal is not None:
        _fail(association, request, refusal, "")
        return
    try:
        kept = _keep(association, request)
    except SanglocError as error:
        _fail(association, request, _status_of(error), str(error))
        return
    association.counters.add("commitments")
    normalized.answer(association, request, SUCCESS)
    _report_here(association, request, kept)


def _keep(association: Association, request: Command) -> _Kept:
    transaction_uid, asked = committing.read_request(normalized.receive(association, request, MAX_REQUEST_BYTES))
    with association.ingest.database.transaction() as connection:
        pk = commitment.ask(
            connection,
            association.calling,
            transaction_uid,
            asked,
            requester_address=association.address,
            called=association.called,
            hold_s=association.policy.network_timeout_s + 4 * _CHECK_S,
        )
    log.info("commitment asked for", transaction_uid=transaction_uid, instances=len(asked), calling=association.calling)
    return _Kept(pk, transaction_uid, asked)


def _report_here(association: Association, request: Command, kept: _Kept) -> None:
    """Check and report on this association, or hand both over to the exchange process."""
    ingest = association.ingest
    try:
        until = time.monotonic() + _CHECK_S
        failures = list(committing.check(ingest.database, ingest.store, kept.asked, until))
        with ingest.database.autocommit() as connection:
            commitment.record(connection, kept.pk, failures)
        done = _is_waiting(association) and _send_report(
            association, request.context_id, committing.outcome(kept.transaction_uid, kept.asked, failures)
        )
    except (committing.TooSlowError, Unavailable):
        done = False
    except w.WireError:
        _settle(association, kept.pk, done=False)
        raise
    _settle(association, kept.pk, done=done)


def _is_waiting(association: Association) -> bool:
    """Whether the peer says nothing for a moment: it keeps the association open for the report."""
    try:
        association.wire.wait(_SILENCE_S)
    except w.PeerTimeoutError:
        return True
    return False


def _send_report(association: Association, context_id: int, outcome: Report) -> bool:
    """Whether the peer has confirmed the report."""
    message_id = 1  # nothing else of ours is under way on this association
    data = committing.report(outcome, association.called)
    syntax = association.contexts[context_id].transfer_syntax
    command = event_command(outcome) | {dimse.MESSAGE_ID: message_id, dimse.DATA_SET_TYPE: 0x0001}
    association.send(context_id, dimse.encode(command), normalized.encoded(data, syntax))
    return association.response(message_id).number(dimse.STATUS) == SUCCESS.code


def event_command(outcome: Report) -> dict[int, int | bytes]:
    """What the command set of an N-EVENT-REPORT-RQ says (PS3.7 10.3.1)."""
    return {
        dimse.AFFECTED_SOP_CLASS: PUSH_MODEL.encode(),
        dimse.COMMAND_FIELD: N_EVENT_REPORT_RQ,
        dimse.AFFECTED_SOP_INSTANCE: PUSH_MODEL_INSTANCE.encode(),
        EVENT_TYPE: outcome.event_type,
    }


def _settle(association: Association, pk: int, *, done: bool) -> None:
    """Note that it was reported, or let the exchange process do what is left; it does so in time anyhow."""
    try:
        with association.ingest.database.autocommit() as connection:
            if done:
                commitment.reported(connection, pk)
            else:
                commitment.hold(connection, pk, 0)
                connection.execute("SELECT pg_notify(%s, '')", (commitment.CHANNEL,))
    except Unavailable as error:
        log.warning("commitment waits", commitment=pk, error=str(error).splitlines()[0])


def take_report(association: Association, request: Command) -> None:
    """Answer an N-EVENT-REPORT: another archive says what it has committed of what we forwarded (PS3.4 J.3.3)."""
    refusal = _refusal(association, request, EVENT_TYPE, _EVENT_TYPES, NO_SUCH_EVENT)
    if refusal is not None:
        _fail(association, request, refusal, "")
        return
    try:
        report = committing.read_report(normalized.receive(association, request, MAX_REQUEST_BYTES))
        with association.ingest.database.transaction() as connection:
            known = forwarding.take_report(connection, report.transaction_uid, report.committed, report.failed)
    except SanglocError as error:
        _fail(association, request, _status_of(error), str(error))
        return
    log.info(
        "commitment reported",
        transaction_uid=report.transaction_uid,
        committed=len(report.committed),
        failed=len(report.failed),
        known=known,
        calling=association.calling,
    )
    normalized.answer(association, request, SUCCESS)


def _refusal(
    association: Association, request: Command, type_element: int, types: tuple[int, ...], unknown: Status
) -> Status | None:
    """Why a request is not for us, None when it is."""
    if association.context(request).abstract_syntax != PUSH_MODEL:
        return NO_SUCH_SOP_CLASS
    instance = request.uid(REQUESTED_SOP_INSTANCE) or request.uid(dimse.AFFECTED_SOP_INSTANCE)
    if instance != PUSH_MODEL_INSTANCE:
        return NO_SUCH_INSTANCE
    if request.number(type_element) not in types:
        return unknown
    return None


def _status_of(error: SanglocError) -> Status:
    return next(status for kind, status in _STATUS_OF if isinstance(error, kind))


def _fail(association: Association, request: Command, status: Status, why: str) -> None:
    log.warning(
        "commitment message not accepted",
        status=f"{status.code:04X}",
        reason=why or status.meaning,
        calling=association.calling,
        address=association.address,
    )
    normalized.answer(association, request, status, why or status.meaning)
