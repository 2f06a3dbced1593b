"""The life of a workitem: created, updated, claimed, finished, cancelled (PS3.4 CC.1.1, CC.2).

All functions work in the caller's transaction. `InvalidInput` says that the request itself is wrong, `Conflict` that it
does not fit the state of the workitem, `NotFound` that there is none.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from pacs.ups import events
from pacs.ups.attributes import (
    PERFORMED,
    PRIORITY,
    SOP_CLASS,
    SOP_INSTANCE,
    STATE,
    TRANSACTION_UID,
    UPS_PUSH,
    Model,
    attribute,
    columns_of,
    date_time,
    first,
    items,
)
from storage import audit, workitems
from storage.database import Connection
from storage.errors import Conflict, InvalidInput
from storage.workitems import OURS, State, Workitem

__all__ = ["cancel", "change_state", "create", "request_cancel", "update"]

_FINAL: Final = ("COMPLETED", "CANCELED")
_BECOMES: Final[Mapping[str, State]] = {
    "IN PROGRESS": "IN PROGRESS",
    "COMPLETED": "COMPLETED",
    "CANCELED": "CANCELED",
}
_MODIFIED, _WORKLIST_LABEL, _LABEL = "00404010", "00741202", "00741204"
_PROGRESS, _CANCEL_AT, _CANCEL_REASON, _DISCONTINUED = "00741002", "00404052", "00741238", "0074100E"
_REQUIRED = (  # of a new workitem (PS3.4 table CC.2.5-3): tag, name, values that are allowed
    (STATE, "Procedure Step State", ("SCHEDULED",)),
    (PRIORITY, "Scheduled Procedure Step Priority", ("HIGH", "MEDIUM", "LOW")),
    ("00404041", "Input Readiness State", ("INCOMPLETE", "UNAVAILABLE", "READY")),
    ("00404005", "Scheduled Procedure Step Start DateTime", None),
    (_LABEL, "Procedure Step Label", None),
)
_EMPTY = (TRANSACTION_UID, PERFORMED, _PROGRESS)  # of a new workitem
_NOT_UPDATED = (SOP_CLASS, SOP_INSTANCE, STATE, "00100010", "00100020", "00100030", "00100040")
_PERFORMED_REQUIRED = (  # of a completed one, in the item of the performed procedure (PS3.4 table CC.2.5-3)
    ("00404050", "Performed Procedure Step Start DateTime"),
    ("00404051", "Performed Procedure Step End DateTime"),
    ("00404019", "Performed Workitem Code Sequence"),
    ("00404028", "Performed Station Name Code Sequence"),
)


def create(connection: Connection, uid: str, attributes: Mapping[str, Any], actor: str) -> list[str]:
    """Keep a new workitem (CC.2.5.3); what was added to it, for a person."""
    given = {tag: one for tag, one in attributes.items() if not tag.startswith("0000")}
    for tag, name, allowed in _REQUIRED:
        value = first(given, tag)
        if value == "" or (allowed is not None and value not in allowed):
            wanted = f" is one of {', '.join(allowed)}" if allowed else " is missing"
            raise InvalidInput(f"{name} ({tag[:4]},{tag[4:]}){wanted} (PS3.4 table CC.2.5-3)")
    for tag in _EMPTY:
        if given.get(tag, {}).get("Value"):
            raise InvalidInput(f"({tag[:4]},{tag[4:]}) is empty in a new workitem (PS3.4 table CC.2.5-3)")
        given.pop(tag, None)
    if first(given, SOP_INSTANCE) not in ("", uid):
        raise InvalidInput("The SOP Instance UID of the workitem is not that of the address")
    added = [] if first(given, _WORKLIST_LABEL) else ["Worklist Label was set"]
    given |= {
        SOP_CLASS: attribute("UI", UPS_PUSH),
        SOP_INSTANCE: attribute("UI", uid),
        _MODIFIED: attribute("DT", _now()),
        _WORKLIST_LABEL: attribute("LO", first(given, _WORKLIST_LABEL) or "DEFAULT"),
        _PROGRESS: {"vr": "SQ"},
        PERFORMED: {"vr": "SQ"},
    }
    workitems.add(connection, uid, dict(sorted(given.items())), columns_of(given), actor)
    _note(connection, actor, "workitem.created", uid)
    events.tell(connection, workitems.get(connection, uid), events.state_report(given))
    return added


def update(connection: Connection, uid: str, changes: Mapping[str, Any], transaction_uid: str, actor: str) -> list[str]:
    """Change attributes (CC.2.6.3); those of a sequence are replaced as a whole. What was passed over, for a person."""
    workitem = workitems.get(connection, uid, lock=True)
    _must_be_open(workitem)
    if workitem.state == "IN PROGRESS":
        _must_hold_lock(workitem, transaction_uid)
    for tag in _NOT_UPDATED:
        if tag in changes and first(changes, tag) != first(workitem.attributes, tag):
            raise InvalidInput(f"({tag[:4]},{tag[4:]}) cannot be updated (PS3.4 table CC.2.5-3)")
    if workitem.state == "SCHEDULED" and changes.get(PERFORMED, {}).get("Value"):
        raise Conflict("A workitem that is not in progress has no performed procedure (PS3.4 CC.2.1.3, C310)")
    kept = {tag: one for tag, one in changes.items() if not tag.startswith("0000") and tag != TRANSACTION_UID}
    changed = workitem.attributes | kept | {_MODIFIED: attribute("DT", _now())}
    _write(connection, workitem, changed, workitem.state, workitem.transaction_uid)
    _note(connection, actor, "workitem.updated", uid, attributes=sorted(kept))
    if _PROGRESS in kept:
        events.tell(connection, workitem, events.progress_report(changed))
    if kept.keys() & events.STATE_ATTRIBUTES:
        events.tell(connection, workitem, events.state_report(changed))
    return []


def change_state(connection: Connection, uid: str, state: str, transaction_uid: str, actor: str) -> str:
    """Claim or finish a workitem (CC.2.1.3); a warning where it is in that state already, else ''."""
    if not transaction_uid:
        raise InvalidInput("The Transaction UID (0008,1195) is missing (PS3.4 CC.2.1.3)")
    wanted = _BECOMES.get(state)
    if wanted is None:
        raise InvalidInput("Procedure Step State (0074,1000) becomes IN PROGRESS, COMPLETED or CANCELED (C303)")
    workitem = workitems.get(connection, uid, lock=True)
    if wanted == "IN PROGRESS":
        if workitem.state == "IN PROGRESS":
            raise Conflict("The workitem is in progress already (PS3.4 CC.2.1.3, C302)")
        _must_be_open(workitem)
        _become(connection, workitem, wanted, transaction_uid, actor=actor)
        return ""
    if workitem.state == "SCHEDULED":
        raise Conflict("The workitem is not in progress yet (PS3.4 CC.2.1.3, C310)")
    _must_hold_lock(workitem, transaction_uid)
    if workitem.state == wanted:
        return f"The UPS is already in the requested state of {wanted}"
    _must_be_open(workitem)
    if wanted == "COMPLETED":
        _must_be_complete(workitem.attributes)
    _become(connection, workitem, wanted, transaction_uid, actor=actor)
    return ""


def request_cancel(connection: Connection, uid: str, request: Mapping[str, Any], actor: str) -> str:
    """Cancel what nobody performs yet, or we do; pass the wish on to who performs it (CC.2.2.3). A warning, or ''."""
    workitem = workitems.get(connection, uid, lock=True)
    if workitem.state == "CANCELED":
        return "The UPS is already in the requested state of CANCELED"
    if workitem.state == "COMPLETED":
        raise Conflict("The workitem is completed (PS3.4 CC.2.2.3, C311)")
    events.tell(connection, workitem, events.cancel_request(request, actor))
    if workitem.state == "SCHEDULED" or workitem.performer == OURS:
        cancel(connection, workitem, first(request, _CANCEL_REASON), actor, items(request, _DISCONTINUED))
    return ""


def cancel(connection: Connection, workitem: Workitem, why: str, actor: str, codes: list[Model] | None = None) -> None:
    """Bring a workitem that is locked in the caller's transaction to its end without a result."""
    progress = (items(workitem.attributes, _PROGRESS) or [{}])[0] | {_CANCEL_AT: attribute("DT", _now())}
    if why:
        progress[_CANCEL_REASON] = attribute("LT", why)
    if codes:
        progress[_DISCONTINUED] = attribute("SQ", *codes)
    changed = workitem.attributes | {_PROGRESS: attribute("SQ", progress)}
    _become(connection, workitem, "CANCELED", workitem.transaction_uid, actor=actor, attributes=changed)


def _become(
    connection: Connection,
    workitem: Workitem,
    state: State,
    transaction_uid: str | None,
    *,
    actor: str,
    attributes: Model | None = None,
) -> None:
    changed = (attributes or workitem.attributes) | {
        STATE: attribute("CS", state),
        _MODIFIED: attribute("DT", _now()),
    }
    _write(connection, workitem, changed, state, transaction_uid)
    _note(connection, actor, "workitem.state", workitem.workitem_uid, state=state)
    events.tell(connection, workitem, events.state_report(changed))


def _write(
    connection: Connection, workitem: Workitem, attributes: Model, state: State, transaction_uid: str | None
) -> None:
    ordered = dict(sorted(attributes.items()))
    workitems.write(
        connection, workitem.workitem_pk, ordered, columns_of(ordered), state=state, transaction_uid=transaction_uid
    )


def _must_be_open(workitem: Workitem) -> None:
    if workitem.state in _FINAL:
        raise Conflict(f"The workitem is {workitem.state} and changes no more (PS3.4 CC.2.1.3, C300)")


def _must_hold_lock(workitem: Workitem, transaction_uid: str) -> None:
    if not transaction_uid:
        raise InvalidInput("The Transaction UID is missing: the workitem is in progress (PS3.4 CC.2.6.3)")
    if workitem.transaction_uid != transaction_uid:
        raise Conflict("The Transaction UID is not that of who performs the workitem (PS3.4 CC.2.1.3, C301)")


def _must_be_complete(attributes: Mapping[str, Any]) -> None:
    performed = items(attributes, PERFORMED)
    if not performed:
        raise Conflict("Unified Procedure Step Performed Procedure Sequence (0074,1216) is missing (C304)")
    for tag, name in _PERFORMED_REQUIRED:
        if not performed[0].get(tag, {}).get("Value"):
            raise Conflict(f"{name} ({tag[:4]},{tag[4:]}) is missing (PS3.4 CC.2.1.3, C304)")


def _note(connection: Connection, actor: str, action: str, uid: str, **detail: object) -> None:
    audit.add(connection, actor, action, "", {"workitem_uid": uid, **detail})


def _now() -> str:
    return date_time(dt.datetime.now(dt.UTC))
