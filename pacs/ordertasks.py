"""Background tasks for orders: the MLLP listener, and a look for what came after the order was last looked at."""

from __future__ import annotations

import threading
import time

import structlog

from pacs.tasks import Exchange
from storage import orders, performed, worklist
from storage.errors import SanglocError

__all__ = ["follow_orders", "listen"]

log = structlog.get_logger()

_PAUSE_S = 5.0  # between two looks, however much comes in
_POLL_S = 60.0
_FRESH_S, _ALL_S = 3600.0, 600.0  # of performed steps: the fresh ones each time, all that are awaited so often
_RECENT_S = 180.0  # an order that changed within so long is held against the studies once more


def follow_orders(exchange: Exchange, stop: threading.Event) -> None:
    """Note which performed steps have all their images; bring studies forward that met their order in mid-air."""
    bell = exchange.bells.on(worklist.CHANNEL)
    all_seen = -_ALL_S
    while not stop.is_set():
        bell.clear()
        everything = time.monotonic() - all_seen > _ALL_S
        all_seen = time.monotonic() if everything else all_seen
        with exchange.database.transaction() as connection:
            within_s = performed.AWAITED_S if everything else _FRESH_S
            complete = performed.note_complete(connection, within_s=within_s)
            moved = orders.hasten_recent(connection, _RECENT_S)
        if complete or moved:
            log.info("orders followed", complete=len(complete), moved=len(moved))
        if moved:
            with exchange.database.autocommit() as connection:
                worklist.announce(connection)
        stop.wait(_PAUSE_S)
        bell.wait(_POLL_S)


def listen(exchange: Exchange, stop: threading.Event) -> None:
    """Take HL7 messages over MLLP, where the settings ask for it.

    Raises:
        SanglocError: the port or the files for TLS cannot be used.
    """
    config = exchange.config.hl7
    if config is None:
        stop.wait()
        return
    from pacs.dimse.policy import TlsFiles  # noqa: PLC0415
    from pacs.dimse.tls import server_context  # noqa: PLC0415
    from pacs.hl7.listener import serve  # noqa: PLC0415 - only where it is used
    from pacs.hl7.processing import Processor  # noqa: PLC0415
    from pacs.ordering import Desk  # noqa: PLC0415

    tls = None
    if config.certificate and config.key:
        tls = server_context(TlsFiles(config.certificate, config.key, config.client_authorities))
    try:
        listener = config.socket()
    except OSError as error:
        raise SanglocError(f"The HL7 port {config.port} on {config.host} cannot be used: {error.strerror}") from error
    with listener:
        serve(listener, Processor(exchange.database, Desk(config.promise)), config.limits, stop, tls)
