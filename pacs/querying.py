"""What `sangloc query` does: C-FIND or QIDO-RS against any archive, the answers as the DICOM JSON model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import httpx
from pydicom.datadict import keyword_for_tag
from rich.console import Console
from rich.table import Table

from api.dicomweb.attributes import json_model
from pacs.dimse import command as dimse
from pacs.dimse.contexts import PATIENT_ROOT_FIND, STUDY_ROOT_FIND
from pacs.dimse.proposal import Proposal
from pacs.dimse.requestor import EXPLICIT, IMPLICIT, Requestor
from pacs.dimse.tls import client_context
from pacs.identifiers import UTF8, Element, read, vr_of, write
from pacs.query import LEVEL
from pacs.query_parameters import read as read_keys
from pacs.sending import Call
from storage.attributes import BY_KEYWORD, UNIQUE_KEYS, Level
from storage.errors import InvalidInput, PeerUnavailable

__all__ = ["Answers", "Wanted", "ask", "show"]

_LEVELS = {"patient": Level.PATIENT, "study": Level.STUDY, "series": Level.SERIES, "image": Level.IMAGE}
_PATHS = {Level.STUDY: "studies", Level.SERIES: "series", Level.IMAGE: "instances"}
_PENDING = (0xFF00, 0xFF01)
_CANCELLED, _SUCCESS = 0xFE00, 0x0000
_PRIORITY = 0x0700
_HIDDEN = {"00080005", "00080052", "00081190"}  # of a table: how the answer is written, and where its study is

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
    root: str
    fuzzy: bool
    limit: int

    @classmethod
    def of(cls, keys: Sequence[str], level: str, *, root: str, fuzzy: bool, limit: int) -> Self:
        """From KEY=VALUE and KEY; raises `InvalidInput`."""
        pairs = tuple((name, value) for name, _, value in (key.partition("=") for key in keys))
        asked = read_keys(pairs)
        if asked.include or asked.limit is not None or len(asked.keys) < len({name for name, _ in pairs}):
            raise InvalidInput("Keys are attributes, each once; the rest is said by options.")
        found = dict(asked.keys)
        if not any(not element.values or not any(element.values) for element in found.values()):
            for tag in _COLUMNS[_LEVELS[level]]:
                found.setdefault(tag, Element(vr_of(tag)))
        found.setdefault(UNIQUE_KEYS[_LEVELS[level]].tag, Element("UI"))
        return cls(_LEVELS[level], found, pairs, root, fuzzy, limit)


@dataclass(slots=True)
class Answers:
    """The matches, and what the peer said besides."""

    columns: list[str] = field(default_factory=list)
    matches: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    answered: bool = True


def ask(call: Call, wanted: Wanted) -> Answers:
    """Ask once. Raises `PeerUnavailable`, `PeerRefused`, `InvalidInput`."""
    answers = _ask_web(call, wanted) if call.web else _ask_dimse(call, wanted)
    answers.columns = [f"{tag:08X}" for tag in wanted.keys]
    return answers


# ---- C-FIND


def _ask_dimse(call: Call, wanted: Wanted) -> Answers:
    sop_class = PATIENT_ROOT_FIND if wanted.root == "patient" else STUDY_ROOT_FIND
    if wanted.level is Level.PATIENT and wanted.root != "patient":
        raise InvalidInput("Patients are found with --root patient.")
    proposal = Proposal(sop_class, (EXPLICIT, IMPLICIT), options=bytes((1, 1, wanted.fuzzy, 1)))
    answers = Answers()
    with Requestor(call.peer, call.policy, [proposal]) as association:
        context_id = association.context_id(sop_class)
        syntax = association.contexts[context_id].transfer_syntax
        keys = {**wanted.keys, LEVEL: Element("CS", (wanted.level.name,))}
        request: dict[int, int | bytes] = {
            dimse.AFFECTED_SOP_CLASS: sop_class.encode(),
            dimse.COMMAND_FIELD: dimse.C_FIND_RQ,
            _PRIORITY: 0,
        }
        message_id = association.send(context_id, request, write(keys, syntax, UTF8))
        status = _PENDING[0]
        while status in _PENDING:
            response, data = association.receive()
            if response.responded_to != message_id or (code := response.number(dimse.STATUS)) is None:
                raise PeerUnavailable(f"{call.shown} answers what was not asked.")
            status = code
            if status in _PENDING:
                _take(answers, status, json_model(read(data or b"", syntax)))
                if len(answers.matches) == wanted.limit:
                    _cancel(association, context_id, message_id)
        _conclude(answers, status, response.elements.get(dimse.ERROR_COMMENT, b""), wanted.limit)
    del answers.matches[wanted.limit :]
    return answers


def _take(answers: Answers, status: int, match: dict[str, Any]) -> None:
    answers.matches.append(match)
    note = "Not all keys are supported there."
    if status == _PENDING[1] and note not in answers.notes:
        answers.notes.append(note)


def _cancel(association: Requestor, context_id: int, message_id: int) -> None:
    association.send(context_id, {dimse.COMMAND_FIELD: dimse.C_CANCEL_RQ, dimse.RESPONDED_TO: message_id})


def _conclude(answers: Answers, status: int, comment: bytes, limit: int) -> None:
    said = comment.decode("ascii", "replace").strip(" \0")
    if status == _CANCELLED or len(answers.matches) > limit:
        answers.notes.append(f"There are more than {limit} matches: see --limit.")
    elif status != _SUCCESS:
        answers.answered = status >> 12 == 0xB  # a warning: there are matches
        answers.notes.append(f"The peer answers with status {status:04X}{': ' if said else ''}{said}")


# ---- QIDO-RS


def _ask_web(call: Call, wanted: Wanted) -> Answers:
    if wanted.level is Level.PATIENT:
        raise InvalidInput("QIDO-RS does not look for patients.")
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
    if answer.status_code not in (200, 204) or not isinstance(models, list):
        answers.answered = False
        answers.notes.append(f"The peer answers with HTTP status {answer.status_code}: {answer.text[:300]}")
    else:
        answers.matches = models[:limit]
        if len(models) > limit:
            answers.notes.append(f"There are more than {limit} matches: see --limit.")
    return answers


# ---- for people


def show(answers: Answers) -> None:
    """Print a table of what was asked for."""
    tags = [tag for tag in answers.columns if tag not in _HIDDEN]
    table = Table(*(keyword_for_tag(tag) or tag for tag in tags), box=None, pad_edge=False)
    for match in answers.matches:
        table.add_row(*(_cell(match.get(tag, {})) for tag in tags))
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(width=10_000, markup=False, highlight=False)  # lines for other programs are not folded
    console.print(table)
    console.print(f"{len(answers.matches)} found")


def _cell(attribute: dict[str, Any]) -> str:
    return "\\".join(_shown(value) for value in attribute.get("Value", ()))


def _shown(value: Any) -> str:
    if isinstance(value, dict):  # a person name, or an item
        texts = [text for text in value.values() if isinstance(text, str)]
        return "=".join(texts) if texts else "{...}"
    return "" if value is None else str(value)
