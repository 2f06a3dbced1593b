"""What C-MOVE and C-GET have in common: the identifier, the counts, and the answers (PS3.4 C.4.2, C.4.3)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from pacs import identifiers
from pacs.dimse import command as dimse
from pacs.dimse.contexts import PATIENT_ROOT_GET, PATIENT_ROOT_MOVE
from pacs.dimse.status import (
    CANNOT_PERFORM,
    RETRIEVE_UNREADABLE,
    SOP_CLASS_NOT_SUPPORTED,
    SUB_OPERATIONS_CANCELLED,
    SUB_OPERATIONS_PENDING,
    SUB_OPERATIONS_WARNING,
    SUCCESS,
    Status,
    retrieve_status_of,
)
from pacs.retrieve import Selection
from storage.errors import InvalidIdentifier, InvalidInput, SanglocError
from storage.uid import UID

if TYPE_CHECKING:
    from pacs.dimse.association import Association
    from pacs.dimse.command import Command

__all__ = ["CancelledError", "SubOperations", "asked_for", "refuse", "serve"]

log = structlog.get_logger()

_PENDING_S = 1.0  # between two pending answers
_MAX_IDENTIFIER_BYTES = 1 << 20  # a list of 10,000 UIDs has 650 kB
_MOST_UIDS = 900  # in the list of failed ones: an explicit VR value has less than 64 kB
_US_MAX = 0xFFFF
_REMAINING, _COMPLETED, _FAILED, _WARNING = 0x1020, 0x1021, 0x1022, 0x1023
_FAILED_UIDS, _LEVEL = 0x00080058, 0x00080052
_DUPLICATE = 0x0111
_KEYS = {  # level -> its unique key, and the name of the key in a selection (PS3.4 C.6.1.1, C.6.2.1)
    "PATIENT": (0x00100020, "patient_id"),
    "STUDY": (0x0020000D, "study_uid"),
    "SERIES": (0x0020000E, "series_uid"),
    "IMAGE": (0x00080018, "sop_uids"),
}


class CancelledError(Exception):
    """The peer sent a C-CANCEL."""


class SubOperations:
    """The counts of one operation, and the answers that carry them."""

    def __init__(self, association: Association, request: Command, total: int) -> None:
        self._association, self._request = association, request
        self.total = total
        self.completed = self.failed = self.warned = 0
        self._failed_uids: list[str] = []
        self._answered = time.monotonic()

    @property
    def remaining(self) -> int:
        """Sub-operations that were not begun or have not ended."""
        return max(0, self.total - self.completed - self.failed - self.warned)

    def count(self, status: int | None, sop_uid: str) -> None:
        """Count one that has ended with this status of its C-STORE; None: it could not even be asked."""
        if status == 0:
            self.completed += 1
        elif status is not None and (0xB000 <= status <= 0xBFFF or status == _DUPLICATE):
            self.warned += 1
        else:
            self.failed += 1
            if len(self._failed_uids) < _MOST_UIDS:
                self._failed_uids.append(sop_uid)

    def tick(self) -> None:
        """Answer `pending` once a second. Raises `CancelledError` when the peer has asked for it."""
        if self._association.cancelled(self._request):
            raise CancelledError
        if time.monotonic() - self._answered >= _PENDING_S:
            self._answer(SUB_OPERATIONS_PENDING)
            self._answered = time.monotonic()

    def finish(self, *, cancelled: bool) -> Status:
        """Send the last answers; the final status."""
        if cancelled:
            status = SUB_OPERATIONS_CANCELLED
        else:
            self.failed += self.remaining  # what was hidden or removed since it was counted
            if not self.failed and not self.warned:
                status = SUCCESS
            elif not self.completed and not self.warned:
                status = CANNOT_PERFORM
            else:
                status = SUB_OPERATIONS_WARNING
            if self.total:
                self._answer(SUB_OPERATIONS_PENDING)
        self._answer(status)
        return status

    def _answer(self, status: Status) -> None:
        elements: dict[int, int | bytes] = {
            dimse.AFFECTED_SOP_CLASS: self._request.elements[dimse.AFFECTED_SOP_CLASS],
            dimse.COMMAND_FIELD: self._request.field | dimse.RESPONSE,
            dimse.RESPONDED_TO: self._request.message_id,
            dimse.STATUS: status.code,
            _COMPLETED: min(self.completed, _US_MAX),
            _FAILED: min(self.failed, _US_MAX),
            _WARNING: min(self.warned, _US_MAX),
        }
        if status in {SUB_OPERATIONS_PENDING, SUB_OPERATIONS_CANCELLED}:
            elements[_REMAINING] = min(self.remaining, _US_MAX)
        data = None
        if self._failed_uids and status is not SUB_OPERATIONS_PENDING:
            syntax = self._association.context(self._request).transfer_syntax
            data = identifiers.write({_FAILED_UIDS: identifiers.Element("UI", self._failed_uids)}, syntax, "")
        elements[dimse.DATA_SET_TYPE] = 0x0101 if data is None else 1
        self._association.send(self._request.context_id, dimse.encode(elements), data)


def serve(
    association: Association,
    request: Command,
    selection: Selection,
    run: Callable[[SubOperations], None],
) -> None:
    """Let `run` perform the sub-operations for the selection, and answer."""
    operations = SubOperations(association, request, len(selection))
    cancelled, start = False, time.monotonic()
    try:
        run(operations)
    except CancelledError:
        cancelled = True
    status = operations.finish(cancelled=cancelled)
    association.counters.add("retrievals")
    log.info(
        "retrieved" if status is SUCCESS else "retrieval incomplete",
        command_field=f"{request.field:04X}",
        status=f"{status.code:04X}",
        completed=operations.completed,
        failed=operations.failed,
        warnings=operations.warned,
        seconds=round(time.monotonic() - start, 3),
        calling=association.calling,
    )


def refuse(association: Association, request: Command, status: Status, why: str) -> None:
    """Answer that there will be no sub-operations."""
    log.warning(
        "retrieval refused",
        command_field=f"{request.field:04X}",
        status=f"{status.code:04X}",
        reason=why,
        calling=association.calling,
    )
    association.respond(request, status, why)


def asked_for(association: Association, request: Command) -> Selection | None:
    """The instances that the identifier of a request names; None when the request was refused."""
    sop_class = association.context(request).abstract_syntax
    if request.uid(dimse.AFFECTED_SOP_CLASS) != sop_class:
        refuse(association, request, SOP_CLASS_NOT_SUPPORTED, "Affected SOP Class is not that of the context")
        return None
    if not request.has_data_set:
        refuse(association, request, RETRIEVE_UNREADABLE, "a retrieval without an identifier")
        return None
    try:
        too_long = InvalidInput(f"The identifier is longer than {_MAX_IDENTIFIER_BYTES} bytes.")
        data = association.read_data(request, _MAX_IDENTIFIER_BYTES, too_long)
        given = identifiers.read(data, association.context(request).transfer_syntax)
        keys = _keys(given, patient_root=sop_class in {PATIENT_ROOT_MOVE, PATIENT_ROOT_GET})
        return Selection(association.ingest.database, **keys)
    except SanglocError as error:
        refuse(association, request, retrieve_status_of(error), str(error))
        return None


def _keys(given: identifiers.Elements, *, patient_root: bool) -> dict[str, list[str]]:
    """The unique keys down to the level; those above it may be left out, since UIDs are unique everywhere."""
    level = identifiers.text_of(given, _LEVEL)
    levels = list(_KEYS) if patient_root else list(_KEYS)[1:]
    if level not in levels:
        raise InvalidIdentifier(f"Query/Retrieve Level is one of {', '.join(levels)}")
    keys: dict[str, list[str]] = {}
    for each in levels[: levels.index(level) + 1]:
        tag, name = _KEYS[each]
        values = [str(value) for value in (given[tag].values if tag in given else ()) if str(value)]
        if values:
            keys[name] = values if each == "PATIENT" else [UID(value) for value in values]
    if _KEYS[level][1] not in keys:
        raise InvalidIdentifier(f"the unique key of the level {level} is missing")
    return keys
