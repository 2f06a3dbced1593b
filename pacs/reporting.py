"""The background task that checks what peers asked us to commit and reports it on an association of its own."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import structlog

from storage import commitment, peers
from storage.errors import PeerRefused, PeerUnavailable, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pacs.tasks import Exchange
    from storage.commitment import Commitment

__all__ = ["report_commitments"]

log = structlog.get_logger()

_HOLD_S = 60.0  # a request is ours for so long; renewed while its objects are read
_RENEW_S = 15.0
_LOOK_S = 300.0  # between two looks while nobody rings
_AGAIN_S = (10.0, 900.0)  # after a report that failed; doubles each time
_GIVE_UP_S = 7 * 86_400.0  # a peer that was away for a week asks again
_KEEP_DAYS = 30


def report_commitments(exchange: Exchange, stop: threading.Event) -> None:
    """Work off what is due until `stop` is set; raises `Unavailable` while the database is away."""
    bell = exchange.bells.on(commitment.CHANNEL)
    while not stop.is_set():
        bell.clear()
        while not stop.is_set() and _report_next(exchange):
            pass
        with exchange.database.autocommit() as connection:
            commitment.forget(connection, _KEEP_DAYS)
            due_s = commitment.next_due_s(connection)
        bell.wait(_LOOK_S if due_s is None else min(max(due_s, 0.0) + 0.01, _LOOK_S))


def _report_next(exchange: Exchange) -> bool:
    """Check and report one request; False when none is due."""
    with exchange.database.autocommit() as connection:
        found = commitment.claim(connection, _HOLD_S)
    if found is None:
        return False
    who = {"transaction_uid": found.transaction_uid, "requester": found.requester}
    try:
        failures = found.failures if found.failures is not None else _check(exchange, found)
        _report(exchange, found, failures)
    except (PeerUnavailable, PeerRefused, Unavailable) as error:
        _try_later(exchange, found, str(error))
        return True
    with exchange.database.autocommit() as connection:
        commitment.reported(connection, found.commitment_pk)
    log.info("commitment reported", failed=sum(map(bool, failures)), of=len(failures), **who)
    return True


def _check(exchange: Exchange, found: Commitment) -> list[int]:
    from pacs import committing  # noqa: PLC0415  loads pydicom, which an idle process does not need

    failures: list[int] = []
    renewed = time.monotonic()
    for failure in committing.check(exchange.database, exchange.store, found.asked()):
        failures.append(failure)
        if time.monotonic() - renewed > _RENEW_S:
            with exchange.database.autocommit() as connection:
                commitment.hold(connection, found.commitment_pk, _HOLD_S)
            renewed = time.monotonic()
    with exchange.database.autocommit() as connection:
        commitment.record(connection, found.commitment_pk, failures)
    return failures


def _report(exchange: Exchange, found: Commitment, failures: Sequence[int]) -> None:
    """Send the report; raises `PeerUnavailable` or `PeerRefused` until the requester has confirmed it."""
    from pacs import committing  # noqa: PLC0415
    from pacs.calling import Call  # noqa: PLC0415  only where there is something to report
    from pacs.dimse.commitment import event_command  # noqa: PLC0415

    with exchange.database.autocommit() as connection:
        peer = peers.by_aet(connection, found.requester)
    if peer is None:
        raise PeerUnavailable(f"No peer has the AE title {found.requester}: add it, so that it can be told.")
    outcome = committing.outcome(found.transaction_uid, found.asked(), failures)
    with Call(peer, exchange.config, committing.PUSH_MODEL, calling=found.called, as_scp=True) as call:
        call.request(event_command(outcome), committing.report(outcome, found.called))


def _try_later(exchange: Exchange, found: Commitment, error: str) -> None:
    shortest, longest = _AGAIN_S
    again_s = min(longest, shortest * 2 ** min(found.attempts - 1, 20))
    log.warning("commitment waits", transaction_uid=found.transaction_uid, requester=found.requester, error=error)
    with exchange.database.autocommit() as connection:
        commitment.fail(connection, found.commitment_pk, error, again_s=again_s, give_up_s=_GIVE_UP_S)
