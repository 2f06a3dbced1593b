"""The background task that performs workitems; what it needs is loaded when there is one."""

from __future__ import annotations

import threading

from pacs.tasks import Exchange
from storage import subscriptions, workitems, worklist

__all__ = ["perform"]

_POLL_S = 30.0
_PAUSE_S = 1.0  # between two looks, however much happens


def perform(exchange: Exchange, stop: threading.Event) -> None:
    """Take up workitems that ask for our analysis, finish those whose images are read, forget old event reports."""
    bell = exchange.bells.on(workitems.CHANNEL, worklist.CHANNEL)
    while not stop.is_set():
        bell.clear()
        with exchange.database.autocommit() as connection:
            due = workitems.due(connection, limit=1)
            subscriptions.forget_old(connection)
        if due:
            from pacs.ups.performing import work_off  # noqa: PLC0415 - an idle process stays small

            writes = exchange.config.report_objects != "none"
            work_off(exchange.database, retrieve_from=exchange.config.ae_title if writes else "")
        stop.wait(_PAUSE_S)
        bell.wait(_POLL_S)
