"""Modality Performed Procedure Step (PS3.4 F.7): N-CREATE when a modality begins, N-SET until it is done."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import structlog
from pydicom.uid import generate_uid

from pacs import identifiers, performing
from pacs.dimse.command import AFFECTED_SOP_CLASS, AFFECTED_SOP_INSTANCE
from pacs.dimse.normalized import REQUESTED_SOP_CLASS, REQUESTED_SOP_INSTANCE, answer
from pacs.dimse.status import (
    DUPLICATE_STEP,
    INVALID_VALUE,
    MISSING_ATTRIBUTE,
    MISSING_VALUE,
    MPPS_INVALID_INSTANCE,
    MPPS_PROCESSING_FAILURE,
    MPPS_RESOURCES,
    MPPS_WRONG_CLASS,
    NO_SUCH_STEP,
    STEP_IS_OVER,
    SUCCESS,
    Status,
)
from pacs.identifiers import Elements
from pacs.ordering import Desk
from pacs.performing import AttributeProblem, StepIsOver
from storage.database import Connection
from storage.errors import Conflict, InvalidInput, InvalidUID, NotFound, ObjectTooLarge, SanglocError, Unavailable
from storage.uid import InstanceUID

if TYPE_CHECKING:
    from pacs.dimse.association import Association
    from pacs.dimse.command import Command

__all__ = ["N_CREATE_RQ", "N_SET_RQ", "create", "set_attributes"]

log = structlog.get_logger()

N_SET_RQ, N_CREATE_RQ = 0x0120, 0x0140
MAX_DATA_SET_BYTES = 16 << 20  # references to some 100,000 images
_ERROR_ID, _ATTRIBUTE_LIST = 0x0903, 0x1005
_OVER = 0xA710  # Error ID of a step that may no longer be updated (PS3.4 F.7.2.2.2)
_MAX_ATTRIBUTES = 16

_Work = Callable[[Connection, Desk, str, Elements, str], None]
_PROBLEMS = {"missing": MISSING_ATTRIBUTE, "empty": MISSING_VALUE, "value": INVALID_VALUE}
_STATUS_OF: tuple[tuple[type[SanglocError], Status], ...] = (
    (StepIsOver, STEP_IS_OVER),
    (Conflict, DUPLICATE_STEP),
    (NotFound, NO_SUCH_STEP),
    (InvalidUID, MPPS_INVALID_INSTANCE),
    (InvalidInput, INVALID_VALUE),
    (Unavailable, MPPS_RESOURCES),
    (SanglocError, MPPS_PROCESSING_FAILURE),
)


def create(association: Association, request: Command) -> None:
    """A modality begins (PS3.4 F.7.2.1). Without a SOP Instance UID the step is given one, which the answer names."""
    sop_uid = request.uid(AFFECTED_SOP_INSTANCE) or str(generate_uid(prefix=None))
    _serve(association, request, sop_uid, performing.begin)


def set_attributes(association: Association, request: Command) -> None:
    """A modality goes on or is done (PS3.4 F.7.2.2)."""
    _serve(association, request, request.uid(REQUESTED_SOP_INSTANCE), performing.change)


def _serve(association: Association, request: Command, sop_uid: str, work: _Work) -> None:
    context = association.context(request)
    if (request.uid(AFFECTED_SOP_CLASS) or request.uid(REQUESTED_SOP_CLASS)) != context.abstract_syntax:
        answer(association, request, MPPS_WRONG_CLASS, "SOP Class is not that of the context")
        return
    try:
        sop_uid = InstanceUID(sop_uid)
        too_long = ObjectTooLarge(f"The data set is longer than {MAX_DATA_SET_BYTES} bytes.")
        data = association.read_data(request, MAX_DATA_SET_BYTES, too_long)
        given = identifiers.read(data, context.transfer_syntax)
        identifiers.require_kinds(given)
        with association.ingest.database.transaction() as connection:
            work(connection, Desk(), sop_uid, given, association.calling)
    except SanglocError as error:
        _refuse(association, request, error, sop_uid)
    else:
        association.counters.add("performed")
        answer(association, request, SUCCESS, extra={AFFECTED_SOP_INSTANCE: sop_uid.encode()})


def _refuse(association: Association, request: Command, error: SanglocError, sop_uid: str) -> None:
    status = next(status for kind, status in _STATUS_OF if isinstance(error, kind))
    extra: dict[int, int | bytes] = {}
    if isinstance(error, StepIsOver):
        extra[_ERROR_ID] = _OVER
    if isinstance(error, AttributeProblem):
        status = _PROBLEMS[error.kind]
        extra[_ATTRIBUTE_LIST] = _tags(error.tags)
    reason = str(error) if not isinstance(error, Unavailable) else type(error).__doc__ or ""
    log.warning(
        "performed step not accepted",
        status=f"{status.code:04X}",
        reason=reason,
        sop_uid=sop_uid[:64],
        calling=association.calling,
    )
    answer(association, request, status, reason, extra=extra)


def _tags(tags: Sequence[int]) -> bytes:
    return b"".join(struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in tags[:_MAX_ATTRIBUTES])
