"""Verification service class (PS3.4 A): the answer to C-ECHO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pacs.dimse.status import SUCCESS

if TYPE_CHECKING:
    from pacs.dimse.association import Association
    from pacs.dimse.command import Command

__all__ = ["echo"]


def echo(association: Association, request: Command) -> None:
    """Answer success (PS3.7 9.1.5)."""
    association.counters.add("echoes")
    association.respond(request, SUCCESS)
