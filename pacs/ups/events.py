"""Event reports of workitems, kept for each subscriber until he has them (PS3.4 CC.2.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pacs.ups.attributes import (
    AFFECTED_SOP_CLASS,
    AFFECTED_SOP_INSTANCE,
    STATE,
    UPS_EVENT,
    Model,
    attribute,
    first,
    items,
)
from pacs.ups.matching import matches
from storage import subscriptions
from storage.database import Connection
from storage.subscriptions import ALL, FILTERED, Subscription
from storage.workitems import Workitem

__all__ = ["STATE_ATTRIBUTES", "cancel_request", "progress_report", "state_report", "tell"]

_TYPE: Final = "00001002"
_READINESS, _PROGRESS = "00404041", "00741002"
_REASON, _REASON_CODES, _CONTACT, _CONTACT_NAME, _REQUESTER = "00741238", "0074100E", "0074100A", "0074100C", "00741236"
STATE_ATTRIBUTES = frozenset({_READINESS})  # besides the state itself, a change of these is a state report


def state_report(attributes: Mapping[str, Any]) -> Model:
    """UPS State Report (event type 1)."""
    event = {
        _TYPE: attribute("US", 1),
        STATE: attribute("CS", first(attributes, STATE)),
        _READINESS: attribute("CS", first(attributes, _READINESS)),
    }
    progress = (items(attributes, _PROGRESS) or [{}])[0]
    return event | {tag: progress[tag] for tag in (_REASON, _REASON_CODES) if tag in progress}


def progress_report(attributes: Mapping[str, Any]) -> Model:
    """UPS Progress Report (event type 3)."""
    return {_TYPE: attribute("US", 3), _PROGRESS: attributes[_PROGRESS]}


def cancel_request(request: Mapping[str, Any], requester: str) -> Model:
    """UPS Cancel Requested (event type 2)."""
    told = {tag: request[tag] for tag in (_REASON, _REASON_CODES, _CONTACT, _CONTACT_NAME) if tag in request}
    return {_TYPE: attribute("US", 2), _REQUESTER: attribute("AE", requester[:16]), **told}


def tell(connection: Connection, workitem: Workitem, event: Model, *, only: str = "") -> None:
    """Keep an event of a workitem for each (or one) of its subscribers, in the transaction that makes it true."""
    about = {
        AFFECTED_SOP_CLASS: attribute("UI", UPS_EVENT),
        AFFECTED_SOP_INSTANCE: attribute("UI", workitem.workitem_uid),
    }
    found = subscriptions.of_workitem(connection, workitem.workitem_uid)
    for subscriber in [only] if only else dict.fromkeys(one.subscriber for one in found):
        if _hears([one for one in found if one.subscriber == subscriber], workitem):
            subscriptions.report(connection, subscriber, dict(sorted((about | event).items())))


def _hears(interests: list[Subscription], workitem: Workitem) -> bool:
    """What is said of this workitem alone counts before what is said of all."""
    by_uid = {one.workitem_uid: one for one in interests}
    alone = by_uid.get(workitem.workitem_uid)
    if alone is not None:
        return not alone.muted
    for uid in (ALL, FILTERED):
        wide = by_uid.get(uid)
        if wide is None or (wide.suspended_at is not None and workitem.created_at > wide.suspended_at):
            continue
        if uid == ALL or matches(workitem.attributes, wide.filter):
            return True
    return False
