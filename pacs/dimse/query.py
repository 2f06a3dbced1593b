"""Query service class (PS3.4 C.4.1): Patient Root and Study Root, answered from the index."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, Final

from pacs import answers
from pacs.dimse.find import Answer, Asked, InformationModel
from pacs.identifiers import Element, Elements, text_of
from pacs.query import LEVEL, RETRIEVE_AE_TITLE, Options, parse, require_unique_keys
from storage.attributes import Level
from storage.errors import InvalidIdentifier

if TYPE_CHECKING:
    from pacs.dimse.association import Association

__all__ = ["patient_root", "study_root"]

_LEVELS = {level.name: level for level in Level}


def _query(top: Level, association: Association, asked: Asked) -> Generator[Answer, None, str]:
    keys = asked.identifier
    name = text_of(keys, LEVEL)
    level = _LEVELS.get(name)
    if level is None or level < top:
        raise InvalidIdentifier("Query/Retrieve Level is none of this information model.")
    options = Options.of(asked.options)
    if not options.relational:
        require_unique_keys(keys, level, top)
    parsed = parse(keys, level, options)
    limit = association.policy.find_max_results
    found = answers.find(association.searches, parsed, limit=limit)
    fixed: Elements = {LEVEL: Element("CS", (name,))}
    if RETRIEVE_AE_TITLE in keys:
        fixed = {**fixed, RETRIEVE_AE_TITLE: Element("AE", (asked.called,))}
    incomplete = bool(parsed.unsupported)
    for match in found:
        match.update(fixed)
        yield Answer(match, incomplete)
    return f"only the first {limit} matches were sent" if found.cut else ""


patient_root: Final[InformationModel] = partial(_query, Level.PATIENT)
"""Patients, their studies, series and instances (PS3.4 C.6.1)."""
study_root: Final[InformationModel] = partial(_query, Level.STUDY)
"""Studies with their patient's attributes, series and instances (PS3.4 C.6.2)."""
