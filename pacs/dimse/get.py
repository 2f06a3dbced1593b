"""C-GET: the objects come back on the association that asks for them (PS3.4 C.4.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from pacs.dimse import command as dimse
from pacs.dimse.pump import Pump
from pacs.dimse.sender import store_request
from pacs.dimse.suboperations import SubOperations, asked_for, serve
from pacs.outgoing import open_outgoing
from pacs.retrieve import Selection, StoredInstance
from storage.errors import SanglocError

if TYPE_CHECKING:
    from pacs.dimse.association import Association
    from pacs.dimse.command import Command

__all__ = ["get"]

log = structlog.get_logger()


def get(association: Association, request: Command) -> None:
    """Send what the identifier names as C-STORE sub-operations (PS3.7 9.1.3)."""
    selection = asked_for(association, request)
    if selection is not None:
        serve(association, request, selection, lambda operations: _run(association, selection, operations))


def _run(association: Association, selection: Selection, operations: SubOperations) -> None:
    pump = Pump(
        association.wire,
        association.buffers,
        association.peer_max_pdu_bytes,
        association.policy.network_timeout_s,
    )
    try:
        for number, instance in enumerate(selection):
            operations.tick()
            operations.count(_store(association, pump, instance, number % 0xFFFF + 1), instance.sop_uid)
    finally:
        pump.close()


def _store(association: Association, pump: Pump, instance: StoredInstance, message_id: int) -> int | None:
    """The status of one sub-operation; None when the object cannot be sent."""
    usable = {
        context.transfer_syntax: number
        for number, context in association.contexts.items()
        if context.abstract_syntax == instance.sop_class and context.peer_is_scp
    }
    try:
        outgoing = open_outgoing(association.ingest.store, instance, list(usable))
        request = store_request(instance.sop_class, instance.sop_uid, message_id)
        pump.send(usable[outgoing.transfer_syntax], request, outgoing)
    except SanglocError as error:
        log.warning("object not sent", sop_uid=instance.sop_uid, reason=str(error), calling=association.calling)
        return None
    return association.response(message_id).number(dimse.STATUS)
