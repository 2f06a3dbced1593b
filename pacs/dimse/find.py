"""C-FIND for every information model that is queried this way (PS3.7 9.1.2): an identifier in, answers out.

What is asked and what matches is the model's matter; `services.FIND` has one for each SOP class.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import structlog

from pacs import identifiers
from pacs.dimse import command as dimse
from pacs.dimse.status import (
    CANCELLED,
    IDENTIFIER_MISSING,
    PENDING,
    PENDING_WARNING,
    RESULT_CUT,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    Status,
    find_status_of,
)
from pacs.identifiers import Elements
from storage.errors import InvalidInput, SanglocError

if TYPE_CHECKING:
    from pacs.dimse.association import Association, Handler
    from pacs.dimse.command import Command

__all__ = ["Answer", "Asked", "InformationModel", "finder"]

log = structlog.get_logger()

MAX_IDENTIFIER_BYTES = 1 << 20  # a list of 10,000 UIDs has 650 kB
_NO_CHARACTER_SET = identifiers.Element("CS")
_FLUSH_BYTES = 1 << 15  # answers are sent many at a time: 100 of them are two segments, not 200


@dataclass(frozen=True, slots=True)
class Asked:
    """One C-FIND request."""

    identifier: Elements
    sop_class: str
    options: bytes  # what extended negotiation agreed on for this SOP class (PS3.4 C.5.1.1); b"" without
    called: str  # our AE title in this association
    calling: str


class Answer(NamedTuple):
    """One match. `incomplete`: an optional key was not supported (PS3.4 C.4.1.1.4, status FF01)."""

    identifier: Elements
    incomplete: bool = False


InformationModel = Callable[["Association", Asked], Generator[Answer, None, str]]
"""Yields the matches, each when it is wanted, and returns '', or why more were not given.

It is closed when the peer cancels or goes away. Raises `InvalidInput` (`InvalidIdentifier`: status A900),
`Unavailable`.
"""


def finder(models: Mapping[str, InformationModel]) -> Handler:
    """The service for these information models, by SOP class UID."""

    def find(association: Association, request: Command) -> None:
        """Answer one query."""
        sop_class = association.context(request).abstract_syntax
        model = models.get(sop_class)
        if model is None or request.uid(dimse.AFFECTED_SOP_CLASS) != sop_class:
            _refuse(association, request, SOP_CLASS_NOT_SUPPORTED, "Affected SOP Class is not that of the context")
        elif not request.has_data_set:
            _refuse(association, request, IDENTIFIER_MISSING, "C-FIND without an identifier")
        else:
            _find(association, request, model)

    return find


def _find(association: Association, request: Command, model: InformationModel) -> None:
    try:
        status, comment = _answer(association, request, model)
    except SanglocError as error:
        status = find_status_of(error)
        if status.code >> 8 == 0xA7:
            log.warning("query not answered", error=type(error).__name__, calling=association.calling)
            comment = type(error).__doc__ or ""
        else:
            comment = str(error)
            log.info("query not understood", reason=comment, calling=association.calling)
    association.counters.add("queries")
    association.respond(request, status, comment)


def _answer(association: Association, request: Command, model: InformationModel) -> tuple[Status, str]:
    context = association.context(request)
    too_long = InvalidInput(f"The identifier is longer than {MAX_IDENTIFIER_BYTES} bytes.")
    data = association.read_data(request, MAX_IDENTIFIER_BYTES, too_long)
    identifier = identifiers.read(data, context.transfer_syntax)
    identifiers.require_kinds(identifier)
    character_set = (
        "\\".join(map(str, identifier[identifiers.CHARACTER_SET].values))
        if identifiers.CHARACTER_SET in identifier
        else ""
    )
    asked = Asked(
        identifier,
        context.abstract_syntax,
        association.options(context.abstract_syntax),
        association.called,
        association.calling,
    )
    heads = [dimse.response(request, status.code, data_set=True) for status in (PENDING, PENDING_WARNING)]
    answers = model(association, asked)
    out = bytearray()
    try:
        while True:
            if len(out) > _FLUSH_BYTES:
                full, out = bytes(out), bytearray()
                association.wire.send(full)
                if association.cancelled(request):
                    return CANCELLED, ""
            found = next(answers)
            data = identifiers.write(found.identifier, context.transfer_syntax, character_set)
            out += association.packed(request.context_id, heads[found.incomplete], data)
    except StopIteration as end:
        return (RESULT_CUT, end.value) if end.value else (SUCCESS, "")
    finally:
        answers.close()
        if out:
            association.wire.send(bytes(out))


def _refuse(association: Association, request: Command, status: Status, why: str) -> None:
    log.warning("c-find not accepted", status=f"{status.code:04X}", reason=why, calling=association.calling)
    association.respond(request, status, why)
