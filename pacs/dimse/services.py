"""Which service answers which request: a new service class is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping

from pacs.dimse.association import Association, Handler
from pacs.dimse.command import C_CANCEL_RQ, C_ECHO_RQ, C_STORE_RQ, Command
from pacs.dimse.echo import echo
from pacs.dimse.store import store

__all__ = ["SERVICES"]


def _ignore(association: Association, request: Command) -> None:
    """A C-CANCEL for an operation that has ended asks for no answer (PS3.7 9.3.2.3)."""


SERVICES: Mapping[int, Handler] = {
    C_STORE_RQ: store,
    C_ECHO_RQ: echo,
    C_CANCEL_RQ: _ignore,
}
