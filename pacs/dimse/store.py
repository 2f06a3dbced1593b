"""Storage service class (PS3.4 B): a C-STORE goes through ingest, and is answered when it is durable and indexed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from pacs.dimse.command import AFFECTED_SOP_CLASS, AFFECTED_SOP_INSTANCE
from pacs.dimse.status import (
    DATA_SET_MISSING,
    INVALID_SOP_INSTANCE,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    Status,
    status_of,
)
from storage.errors import InvalidUID, SanglocError
from storage.uid import InstanceUID

if TYPE_CHECKING:
    from pacs.dimse.association import Association
    from pacs.dimse.command import Command

__all__ = ["store"]

log = structlog.get_logger()


def store(association: Association, request: Command) -> None:
    """Receive one composite instance (PS3.7 9.1.1)."""
    if request.uid(AFFECTED_SOP_CLASS) != association.context(request).abstract_syntax:
        _fail(association, request, SOP_CLASS_NOT_SUPPORTED, "Affected SOP Class is not that of the context")
    elif not request.has_data_set:
        _fail(association, request, DATA_SET_MISSING, "C-STORE without a data set")
    else:
        _ingest(association, request)


def _ingest(association: Association, request: Command) -> None:
    sop_uid = request.uid(AFFECTED_SOP_INSTANCE)
    context = association.context(request)
    try:
        with association.ingest.receive(
            sop_class=context.abstract_syntax,
            sop_uid=sop_uid,
            transfer_syntax=context.transfer_syntax,
            source_aet=association.calling,
            source_address=association.address,
            called_aet=association.called,
        ) as incoming:
            size = association.receive_data(request, incoming.write)
            outcome = incoming.commit()
    except SanglocError as error:
        status = status_of(error) if _is_uid(sop_uid) else INVALID_SOP_INSTANCE
        _fail(association, request, status, str(error))
    else:
        association.counters.add(outcome)
        association.counters.add("bytes", size)
        association.respond(request, SUCCESS)


def _is_uid(text: str) -> bool:
    try:
        InstanceUID(text)
    except InvalidUID:
        return False
    return True


def _fail(association: Association, request: Command, status: Status, why: str) -> None:
    association.counters.add("failed")
    log.warning(
        "c-store not accepted",
        status=f"{status.code:04X}",
        reason=why,
        sop_uid=request.uid(AFFECTED_SOP_INSTANCE)[:64],
        calling=association.calling,
        address=association.address,
    )
    association.respond(request, status, why)
