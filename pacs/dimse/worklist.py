"""Basic Worklist Management service class (PS3.4 K): the modality worklist, answered from the orders."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from pacs.dimse.find import Answer, Asked
from pacs.modalityworklist import answers

if TYPE_CHECKING:
    from pacs.dimse.association import Association

__all__ = ["modality_worklist"]


def modality_worklist(association: Association, asked: Asked) -> Generator[Answer, None, str]:
    """Scheduled procedure steps that wait for a modality, by their start (PS3.4 K.6)."""
    limit = association.policy.find_max_results
    for found in answers(association.searches, asked.identifier, asked.calling, limit):
        if found is None:
            return f"only the first {limit} matches were sent"
        yield Answer(*found)
    return ""
