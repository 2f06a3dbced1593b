"""The background task that writes what models said as DICOM objects, where the settings ask for that.

It works behind a cursor over the scores, so triage costs nothing more, and loads what makes the objects when there is
one to make. An object of ours brings no job and changes no worklist row.
"""

from __future__ import annotations

import threading

import structlog

from pacs.tasks import Exchange
from storage import results, worklist
from storage.results import KINDS, Kind
from storage.routing import Horizon

__all__ = ["write"]

log = structlog.get_logger()

_POLL_S = 30.0
_PAUSE_S = 0.5  # between two looks, however much happens


def write(exchange: Exchange, stop: threading.Event) -> None:
    """Note what is due of new scores, and write it."""
    kinds = KINDS[exchange.config.report_objects]
    with exchange.database.autocommit() as connection:
        results.drop_due(connection, kinds, f"report.objects is {exchange.config.report_objects}")
    if not kinds:
        _pass_over(exchange, stop)
        return
    bell, horizon = exchange.bells.on(worklist.CHANNEL), Horizon()
    while not stop.is_set():
        bell.clear()
        more = _enqueue(exchange, horizon, kinds)
        with exchange.database.autocommit() as connection:
            wait_s = results.next_due_s(connection)
        if wait_s == 0:
            from pacs.resultwriting import write_due  # noqa: PLC0415 - an idle process stays small

            write_due(exchange, stop)
        stop.wait(_PAUSE_S)
        if not more and wait_s != 0:
            bell.wait(min(_POLL_S, wait_s or _POLL_S))


def _pass_over(exchange: Exchange, stop: threading.Event) -> None:
    """Keep the cursor at the end, so that nothing of old is written when the setting changes."""
    while not stop.is_set():
        with exchange.database.autocommit() as connection:
            results.pass_over(connection)
        stop.wait(_POLL_S)


def _enqueue(exchange: Exchange, horizon: Horizon, kinds: tuple[Kind, ...]) -> bool:
    """Whether there is more to look at."""
    with exchange.database.autocommit() as connection:
        marks = horizon.look(connection)
    if marks is None:
        return True
    with exchange.database.transaction() as connection:
        return results.enqueue(connection, marks.score_pk, kinds, exchange.config.report_max_age_s)
