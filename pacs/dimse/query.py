"""Query service class (PS3.4 C.4.1): Patient Root and Study Root, answered from the index."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from pacs.dimse.find import Answer, Asked
from storage.errors import InvalidIdentifier

if TYPE_CHECKING:
    from pacs.dimse.association import Association

__all__ = ["patient_root", "study_root"]


def patient_root(association: Association, asked: Asked) -> Generator[Answer, None, str]:
    """Patients, their studies, series and instances (PS3.4 C.6.1)."""
    yield from ()
    raise InvalidIdentifier(f"{asked.sop_class} is not served to {association.calling} yet")


def study_root(association: Association, asked: Asked) -> Generator[Answer, None, str]:
    """Studies with their patient's attributes, series and instances (PS3.4 C.6.2)."""
    yield from ()
    raise InvalidIdentifier(f"{asked.sop_class} is not served to {association.calling} yet")
