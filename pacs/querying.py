"""What `sangloc query` does: C-FIND or QIDO-RS against any archive, the answers as the DICOM JSON model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import httpx
from pydicom.datadict import keyword_for_tag
from rich.console import Console
from rich.table import Table

from api.dicomweb.attributes import json_model
from pacs.dimse import command as dimse
from pacs.dimse.contexts import MODALITY_WORKLIST, PATIENT_ROOT_FIND, STUDY_ROOT_FIND
from pacs.dimse.proposal import Proposal
from pacs.dimse.requestor import EXPLICIT, IMPLICIT, Requestor
from pacs.dimse.tls import client_context
from pacs.identifiers import UTF8, Element, Elements, read, vr_of, write
from pacs.query import LEVEL
from pacs.query_parameters import read as read_keys
from pacs.sending import Call
from storage.attributes import BY_KEYWORD, UNIQUE_KEYS, Level
from storage.errors import InvalidInput, PeerUnavailable

__all__ = ["Answers", "Wanted", "ask", "show"]

_LEVELS = {"patient": Level.PATIENT, "study": Level.STUDY, "series": Level.SERIES, "image": Level.IMAGE}
_PATHS = {Level.STUDY: "studies", Level.SERIES: "series", Level.IMAGE: "instances"}
_PENDING = (0xFF00, 0xFF01)
_SUCCESS = 0x0000
_PRIORITY = 0x0700
_HIDDEN = {"00080005", "00080052", "00081190"}  # of a table: how the answer is written, and where its study is
_STEPS = 0x00400100  # Scheduled Procedure Step Sequence, and what a worklist has only in it (PS3.4 table K.6-1)
_IN_STEP = frozenset({0x00080060, *range(0x00400001, 0x00400013), 0x00400020, 0x00400400, 0x00321070})
_WORKLIST = (
    *(0x00400002, 0x00400003, 0x00080060, 0x00400001, 0x00100010, 0x00100020, 0x00080050, 0x00321060, 0x00400007),
    0x0020000D,
)

# What is shown without being asked for.
_COLUMNS = {
    level: tuple(BY_KEYWORD[keyword].tag for keyword in keywords.split())
    for level, keywords in {
        Level.PATIENT: "PatientID PatientName PatientBirthDate PatientSex",
        Level.STUDY: "StudyDate StudyTime PatientID PatientName AccessionNumber ModalitiesInStudy StudyDescription"
        " NumberOfStudyRelatedInstances StudyInstanceUID",
        Level.SERIES: "SeriesNumber Modality SeriesDescription NumberOfSeriesRelatedInstances SeriesInstanceUID",
        Level.IMAGE: "InstanceNumber SOPClassUID SOPInstanceUID",
    }.items()
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked."""

    level: Level
    keys: dict[int, Element]  # with a value: to match; without: to be shown
    given: tuple[tuple[str, str], ...]  # the same as parameters of QIDO-RS
    sop_class: str  # of a C-FIND
    fuzzy: bool
    limit: int

    @classmethod
    def of(cls, keys: Sequence[str], level: str, *, root: str, fuzzy: bool, limit: int) -> Self:
        """From KEY=VALUE and KEY; `root`: study, patient, or worklist, which has no levels. Raises `InvalidInput`."""
        pairs = tuple((name, value) for name, _, value in (key.partition("=") for key in keys))
        asked = read_keys(pairs)
        firsts = {name.partition(".")[0] for name, _ in pairs}
        if asked.include or asked.limit is not None or len(asked.keys) < len(firsts):
            raise InvalidInput("Keys are attributes, each once; the rest is said by options.")
        found, worklist = dict(asked.keys), root == "worklist"
        if not any(not element.values or not any(element.values) for element in found.values()):
            for tag in _WORKLIST if worklist else _COLUMNS[_LEVELS[level]]:
                found.setdefault(tag, Element(vr_of(tag)))
        if worklist:
            return cls(Level.STUDY, _in_step(found), pairs, MODALITY_WORKLIST, fuzzy, limit)
        found.setdefault(UNIQUE_KEYS[_LEVELS[level]].tag, Element("UI"))
        sop_class = PATIENT_ROOT_FIND if "patient" in (root, level) else STUDY_ROOT_FIND
        return cls(_LEVELS[level], found, pairs, sop_class, fuzzy, limit)

    def fits(self, *, web: bool) -> None:
        """Raises `InvalidInput` for what DICOMweb cannot be asked."""
        if web and self.sop_class == MODALITY_WORKLIST:
            raise InvalidInput("The modality worklist is asked for by C-FIND, not by DICOMweb.")
        if web and self.level is Level.PATIENT:
            raise InvalidInput("QIDO-RS does not look for patients.")


def _in_step(keys: Mapping[int, Element]) -> dict[int, Element]:
    """Keys of a scheduled step, also those that are given without its sequence, in its one item."""
    inner = {tag: element for tag, element in keys.items() if tag in _IN_STEP}
    inner |= keys[_STEPS].values[0] if _STEPS in keys else {}
    outer = {tag: element for tag, element in keys.items() if tag not in _IN_STEP and tag != _STEPS}
    return {_STEPS: Element("SQ", [inner]), **outer}


@dataclass(slots=True)
class Answers:
    """The matches, and what the peer said besides."""

    columns: list[tuple[str, ...]] = field(default_factory=list)  # tags, after those of sequences they are in
    matches: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    answered: bool = True


def ask(call: Call, wanted: Wanted) -> Answers:
    """Ask once. Raises `PeerUnavailable`, `PeerRefused`, `InvalidInput`."""
    wanted.fits(web=call.web)
    answers = _ask_web(call, wanted) if call.web else _ask_dimse(call, wanted)
    answers.columns = _columns(wanted.keys)
    return answers


def _columns(keys: Elements) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for tag, element in keys.items():
        inner = _columns(element.values[0]) if element.vr == "SQ" and element.values else []
        found += [(f"{tag:08X}", *path) for path in inner or [()]]
    return found


# ---- C-FIND


def _ask_dimse(call: Call, wanted: Wanted) -> Answers:
    sop_class, keys, options = wanted.sop_class, dict(wanted.keys), b""
    if sop_class != MODALITY_WORKLIST:
        keys[LEVEL] = Element("CS", (wanted.level.name,))
        options = bytes((1, 1, wanted.fuzzy, 1))
    with Requestor(call.peer, call.policy, [Proposal(sop_class, (EXPLICIT, IMPLICIT), options=options)]) as association:
        context_id = association.context_id(sop_class)
        request: dict[int, int | bytes] = {
            dimse.AFFECTED_SOP_CLASS: sop_class.encode(),
            dimse.COMMAND_FIELD: dimse.C_FIND_RQ,
            _PRIORITY: 0,
        }
        identifier = write(keys, association.contexts[context_id].transfer_syntax, UTF8)
        message_id = association.send(context_id, request, identifier)
        answers = _answers(association, context_id, message_id, wanted.limit)
    del answers.matches[wanted.limit :]
    return answers


def _answers(association: Requestor, context_id: int, message_id: int, limit: int) -> Answers:
    """All responses; one match more than the limit, and the peer is told to stop."""
    answers, end = Answers(), 0.0  # when a peer is left that goes on although it was told to stop
    syntax = association.contexts[context_id].transfer_syntax
    while True:
        response, data = association.receive()
        if response.responded_to != message_id or (status := response.number(dimse.STATUS)) is None:
            raise PeerUnavailable(f"{association.peer.name} answers what was not asked.")
        if status not in _PENDING:
            _conclude(answers, status, response.elements.get(dimse.ERROR_COMMENT, b""), limit)
            return answers
        if len(answers.matches) <= limit:
            _take(answers, status, json_model(_readable(read(data or b"", syntax))))
        if len(answers.matches) > limit and not end:
            _cancel(association, context_id, message_id)
            end = time.monotonic() + association.policy.timeout_s
        elif end and time.monotonic() > end:
            association.abort()
            _conclude(answers, _SUCCESS, b"", limit)
            return answers


def _readable(elements: Elements) -> dict[int, Element]:
    """All but bytes, which nobody asks for."""
    return {
        tag: Element(vr, [_readable(item) for item in values] if vr == "SQ" else values)
        for tag, (vr, values) in elements.items()
        if not any(isinstance(value, bytes) for value in values)
    }


def _take(answers: Answers, status: int, match: dict[str, Any]) -> None:
    answers.matches.append(match)
    note = "Not all keys are supported there."
    if status == _PENDING[1] and note not in answers.notes:
        answers.notes.append(note)


def _cancel(association: Requestor, context_id: int, message_id: int) -> None:
    association.send(context_id, {dimse.COMMAND_FIELD: dimse.C_CANCEL_RQ, dimse.RESPONDED_TO: message_id})


def _conclude(answers: Answers, status: int, comment: bytes, limit: int) -> None:
    said = comment.decode("ascii", "replace").strip(" \0")
    if len(answers.matches) > limit:
        answers.notes.append(f"There are more than {limit} matches: see --limit.")
    elif status != _SUCCESS:
        answers.answered = status >> 12 == 0xB  # a warning: there are matches
        answers.notes.append(f"The peer answers with status {status:04X}{': ' if said else ''}{said}")


# ---- QIDO-RS


def _ask_web(call: Call, wanted: Wanted) -> Answers:
    matched = [(name, value) for name, value in wanted.given if value]
    shown = [(tag, element) for tag, element in wanted.keys.items() if not any(element.values)]
    parameters: list[tuple[str, str | int | float | bool | None]] = [*matched, ("limit", wanted.limit + 1)]
    parameters += [("includefield", f"{tag:08X}") for tag, _ in shown]
    parameters += [("fuzzymatching", "true")] if wanted.fuzzy else []
    headers = {"Accept": "application/dicom+json"}
    if call.peer.dicomweb_token:
        headers["Authorization"] = f"Bearer {call.peer.dicomweb_token}"
    policy, address = call.policy, call.peer.dicomweb_url.rstrip("/")
    secure = address.startswith("https:")
    verify = client_context(policy.certificate, policy.key, policy.authorities) if secure else False
    timeout = httpx.Timeout(policy.timeout_s, connect=policy.connect_timeout_s)
    try:
        with httpx.Client(verify=verify, timeout=timeout, trust_env=False, headers=headers) as client:
            answer = client.get(f"{address}/{_PATHS[wanted.level]}", params=parameters)
            models = answer.json() if answer.status_code == 200 else []
    except (httpx.HTTPError, ValueError) as error:
        raise PeerUnavailable(f"{call.shown}: {str(error) or type(error).__name__}") from error
    return _from_web(answer, models, wanted.limit)


def _from_web(answer: httpx.Response, models: Any, limit: int) -> Answers:
    answers = Answers(notes=[answer.headers["warning"]] if "warning" in answer.headers else [])
    if answer.status_code not in (200, 204) or not _is_dicom_json(models):
        answers.answered = False
        answers.notes.append(f"The peer answers with HTTP status {answer.status_code}: {answer.text[:300]}")
    else:
        answers.matches = models[:limit]
        if len(models) > limit:
            answers.notes.append(f"There are more than {limit} matches: see --limit.")
    return answers


def _is_dicom_json(models: Any) -> bool:
    return isinstance(models, list) and all(
        isinstance(match, dict) and all(isinstance(attribute, dict) for attribute in match.values()) for match in models
    )


# ---- for people


def show(answers: Answers) -> None:
    """Print a table of what was asked for."""
    paths = [path for path in answers.columns if path[-1] not in _HIDDEN]
    table = Table(*(keyword_for_tag(path[-1]) or path[-1] for path in paths), box=None, pad_edge=False)
    for match in answers.matches:
        table.add_row(*(_cell(match, path) for path in paths))
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(width=10_000, markup=False, highlight=False)  # lines for other programs are not folded
    console.print(table)
    console.print(f"{len(answers.matches)} found")


def _cell(match: Any, path: tuple[str, ...]) -> str:
    """What people see of an attribute: its values, of those of all items when it is in a sequence."""
    values = match.get(path[0], {}).get("Value", ()) if isinstance(match, dict) else ()
    if not isinstance(values, list):
        return ""
    if len(path) > 1:
        return "\\".join(filter(None, (_cell(item, path[1:]) for item in values)))
    text = "\\".join(_shown(value) for value in values)
    return "".join(one if one.isprintable() else " " for one in text)  # terminals obey control characters


def _shown(value: Any) -> str:
    if isinstance(value, dict):  # a person name, or an item
        texts = [text for text in value.values() if isinstance(text, str)]
        return "=".join(texts) if texts else "{...}"
    return "" if value is None else str(value)
