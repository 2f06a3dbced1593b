"""Basic Worklist Management service class (PS3.4 K): the modality worklist, answered from the orders."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from pacs.dimse.find import Answer, Asked
from pacs.modalityworklist import answers

if TYPE_CHECKING:
    from pacs.dimse.association import Association

__all__ = ["modality_worklist"]

MAX_STEPS = 2000  # given in one answer; a modality that needs more asks for its own station and day


def modality_worklist(association: Association, asked: Asked) -> Generator[Answer, None, str]:
    """Scheduled procedure steps that wait for a modality, by their start (PS3.4 K.6)."""
    for found in answers(association.ingest.database, asked.identifier, asked.calling, MAX_STEPS):
        if found is None:
            return f"More than {MAX_STEPS} scheduled steps match"
        yield Answer(*found)
    return ""
