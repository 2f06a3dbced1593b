"""Performed procedure steps as modalities report them (PS3.4 F.7): checked, kept, set against what was scheduled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast

import structlog

from pacs.identifiers import Element, Elements
from pacs.ordering import Desk, Origin
from storage import orders, performed
from storage.database import Connection
from storage.errors import Conflict, InvalidInput, InvalidUID
from storage.performed import ScheduledKey, State
from storage.uid import UID

__all__ = ["AttributeProblem", "StepIsOver", "begin", "change"]

log = structlog.get_logger()

_STATUS, _STEP_ID, _STATION, _MODALITY = "00400252", "00400253", "00400241", "00080060"
_SCHEDULED, _SERIES, _REASON = "00400270", "00400340", "00400281"
_STUDY_UID, _SERIES_UID, _PROTOCOL = "0020000D", "0020000E", "00181030"
_ACCESSION, _PROCEDURE_ID, _SCHEDULED_ID, _CODE = "00080050", "00401001", "00400009", "00080100"
_REFERENCES, _REFERENCED_UID = ("00081140", "00400220"), "00081155"

# Type 1 of PS3.4 table F.7.2-1. Missing type 2 attributes are taken as empty: many modalities leave some out.
_AT_BEGIN = (_MODALITY, _STATION, "00400244", "00400245", _STATUS, _STEP_ID, _SCHEDULED)
_AT_END = ("00400250", "00400251")
# What an N-SET may change (table F.7.2-1); modalities that send the rest once more are not refused for it.
_CHANGEABLE = frozenset(
    {_STATUS, _REASON, _SERIES, *_AT_END, "00400254", "00400255", "00081032", "00400280", "00400260", "00400293",
     "00400300", "00400301", "0040030E", "00400310", "00400320", "00400321", "00400324", "00408302", "00180060"}
)  # fmt: skip
_STATES = ("IN PROGRESS", "COMPLETED", "DISCONTINUED")
_WRONG_ENTRY = "110514"  # DCM, "Incorrect worklist entry selected": nothing was done for that entry

_Content = dict[str, Any]  # DICOM JSON (PS3.18 F.2)


class AttributeProblem(InvalidInput):
    """Attributes of a performed step are missing, empty or have a value that may not be (PS3.7 C)."""

    def __init__(self, kind: Literal["missing", "empty", "value"], tags: Sequence[str]) -> None:
        super().__init__(f"{kind}: {', '.join(f'({tag[:4]},{tag[4:]})' for tag in tags)}")
        self.kind, self.tags = kind, [int(tag, 16) for tag in tags]


class StepIsOver(Conflict):
    """The performed procedure step is over and may no longer be changed (PS3.4 F.7.2.2.2)."""


def begin(connection: Connection, desk: Desk, sop_uid: str, given: Elements, source_aet: str) -> None:
    """Keep a step that was begun (N-CREATE), and move what was scheduled.

    Raises:
        AttributeProblem: PS3.4 table F.7.2-1 is not met.
        Conflict: the UID is known.
    """
    content = _json(given)
    _check_begin(content)
    items = _items(content, _SCHEDULED)
    orders.lock(connection)
    key = performed.add(
        connection,
        sop_uid,
        source_aet=source_aet,
        modality=_text(content, _MODALITY),
        step_id=_text(content, _STEP_ID),
        study_uids=sorted({_text(item, _STUDY_UID) for item in items}),
        instance_uids=_references(content),
        content=content,
    )
    if key is None:
        raise Conflict(f"There is a performed procedure step {sop_uid} already.")
    performed.link(connection, key, [_scheduled(item) for item in items])
    _follow(connection, desk, performed.linked(connection, key), source_aet)
    log.info("performed step begun", sop_uid=sop_uid, source_aet=source_aet)


def change(connection: Connection, desk: Desk, sop_uid: str, given: Elements, source_aet: str) -> None:
    """Take in what a modality changes (N-SET); the scheduled steps and their orders follow.

    Raises:
        NotFound: there is no such step.
        StepIsOver: it was completed or discontinued before.
        AttributeProblem: a value may not be, or what a final state needs is missing.
    """
    orders.lock(connection)
    key, before, content = performed.content_of(connection, sop_uid)
    if before != "IN PROGRESS":
        raise StepIsOver(f"The performed procedure step is {before}.")
    content |= {tag: value for tag, value in _json(given).items() if tag in _CHANGEABLE}
    status = _text(content, _STATUS)
    if status not in _STATES:
        raise AttributeProblem("value", [_STATUS])
    _check_series(content, final=status != "IN PROGRESS", made=status == "COMPLETED")
    references = _references(content)
    performed.update(connection, key, status=cast("State", status), instance_uids=references, content=content)
    steps = performed.linked(connection, key)
    if status == "DISCONTINUED" and any(_text(code, _CODE) == _WRONG_ENTRY for code in _items(content, _REASON)):
        performed.unlink(connection, key)
    _follow(connection, desk, steps, source_aet)
    performed.note_complete(connection, key)
    log.info("performed step changed", sop_uid=sop_uid, source_aet=source_aet, status=status, instances=len(references))


def _follow(connection: Connection, desk: Desk, steps: Sequence[performed.LinkedStep], source_aet: str) -> None:
    """Bring scheduled steps and their orders in line with all that was performed for them."""
    moves: dict[int, dict[tuple[str, str], str]] = {}
    for step in steps:
        states = performed.states(connection, step.step_pk)
        now = next((state.replace(" ", "_") for state in _STATES if state in states), "SCHEDULED")
        moves.setdefault(step.order_pk, {})[step.procedure_id, step.step_id] = now
    for order_pk, moved in moves.items():
        desk.steps_moved(connection, order_pk, moved, Origin(source_aet))


def _check_begin(content: _Content) -> None:
    _require(content, _AT_BEGIN)
    for item in _items(content, _SCHEDULED):
        _require(item, (_STUDY_UID,))
        _require_uid(item, _STUDY_UID)
    if _text(content, _STATUS) != "IN PROGRESS":
        raise AttributeProblem("value", [_STATUS])
    _check_series(content, final=False, made=False)


def _check_series(content: _Content, *, final: bool, made: bool) -> None:
    """What stands of the series is whole; a final state needs its end, a completed one its series."""
    if final:
        _require(content, _AT_END)
    if made:
        _require(content, (_SERIES,))
    for item in _items(content, _SERIES):
        if final:
            _require(item, (_PROTOCOL, _SERIES_UID))
        if _text(item, _SERIES_UID):
            _require_uid(item, _SERIES_UID)


def _require(content: _Content, tags: Sequence[str]) -> None:
    missing = [tag for tag in tags if tag not in content]
    empty = [tag for tag in tags if tag in content and not content[tag].get("Value")]
    if missing or empty:
        raise AttributeProblem("missing" if missing else "empty", missing or empty)


def _require_uid(content: _Content, tag: str) -> None:
    try:
        UID(_text(content, tag))
    except InvalidUID:
        raise AttributeProblem("value", [tag]) from None


def _scheduled(item: _Content) -> ScheduledKey:
    return ScheduledKey(
        study_uid=_text(item, _STUDY_UID),
        accession_number=_text(item, _ACCESSION),
        procedure_id=_text(item, _PROCEDURE_ID),
        step_id=_text(item, _SCHEDULED_ID),
    )


def _references(content: _Content) -> list[str]:
    """SOP Instance UIDs that the series refer to, each once."""
    return list(dict.fromkeys(_referenced(content)))


def _referenced(content: _Content) -> Iterator[str]:
    for series in _items(content, _SERIES):
        for tag in _REFERENCES:
            for reference in _items(series, tag):
                if uid := _text(reference, _REFERENCED_UID):
                    yield uid


def _items(content: _Content, tag: str) -> list[_Content]:
    found = content.get(tag, {})
    return list(found.get("Value", ())) if found.get("vr") == "SQ" else []


def _text(content: _Content, tag: str) -> str:
    values = content.get(tag, {}).get("Value", ())
    return values[0] if values and isinstance(values[0], str) else ""


def _json(elements: Elements) -> _Content:
    return {f"{tag:08X}": _json_of(element) for tag, element in elements.items()}


def _json_of(element: Element) -> _Content:
    values: list[Any] = list(element.values)
    if element.vr == "SQ":
        values = [_json(item) for item in values]
    elif element.vr == "PN":
        groups = ("Alphabetic", "Ideographic", "Phonetic")
        values = [
            {key: text for key, text in zip(groups, str(name).split("="), strict=False) if text} for name in values
        ]
    elif element.vr == "AT":
        values = [f"{value:08X}" for value in values]
    elif values and isinstance(values[0], bytes):
        return {"vr": element.vr}  # nothing that a performed step has
    return {"vr": element.vr, "Value": values} if values else {"vr": element.vr}
