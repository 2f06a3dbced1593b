"""One DIMSE-N request to a peer on an association of its own: reports, requests for commitment, notices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from pacs.dimse import command as dimse
from pacs.dimse import normalized
from pacs.dimse.proposal import Proposal
from pacs.dimse.requestor import EXPLICIT, IMPLICIT, CallerPolicy, Requestor
from pacs.dimse.wire import PeerTimeoutError
from storage.errors import PeerRefused, PeerUnavailable

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from pacs.tasks import ExchangeConfig
    from storage.peers import Peer

__all__ = ["Call", "caller_policy"]


def caller_policy(config: ExchangeConfig, ae_title: str = "") -> CallerPolicy:
    """How the exchange process calls others, by its own AE title unless another is given."""
    return CallerPolicy(
        ae_title=ae_title or config.ae_title,
        timeout_s=config.timeout_s,
        certificate=config.certificate,
        key=config.key,
        authorities=config.authorities,
    )


class Call:
    """An association for one SOP class; a context manager. Every method raises what `Requestor` does."""

    def __init__(
        self, peer: Peer, config: ExchangeConfig, sop_class: str, *, calling: str = "", as_scp: bool = False
    ) -> None:
        proposal = Proposal(sop_class, (EXPLICIT, IMPLICIT), as_scp=as_scp)
        self._peer, self._sop_class = peer, sop_class
        self._requestor = Requestor(peer, caller_policy(config, calling), [proposal])

    def __enter__(self) -> Self:
        self._requestor.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._requestor.__exit__(*exc)  # type: ignore[arg-type]

    def request(self, command: Mapping[int, int | bytes], data: Dataset) -> None:
        """Send a request with its data set; returns when the peer has answered with success.

        Raises:
            PeerRefused: it has answered with another status.
        """
        context_id = self._requestor.context_id(self._sop_class)
        syntax = self._requestor.contexts[context_id].transfer_syntax
        answer = self._requestor.request(context_id, command, normalized.encoded(data, syntax))
        if (status := answer.number(dimse.STATUS)) != 0:
            raise PeerRefused(f"{self._peer.name} answers with status {status or 0:04X}.")

    def event(self, wait_s: float) -> Dataset | None:
        """The event information of an N-EVENT-REPORT that comes within `wait_s`, confirmed; None when none comes."""
        try:
            self._requestor.wire.wait(wait_s)
        except PeerTimeoutError:
            return None
        command, data = self._requestor.receive()
        if command.field != normalized.N_EVENT_REPORT_RQ or data is None:
            raise PeerUnavailable(f"{self._peer.name} says what was not asked.")
        syntax = self._requestor.contexts[command.context_id].transfer_syntax
        found = normalized.decoded(data, syntax)
        self._requestor.send(
            command.context_id,
            {
                dimse.AFFECTED_SOP_CLASS: command.elements.get(dimse.AFFECTED_SOP_CLASS, b""),
                dimse.COMMAND_FIELD: command.field | dimse.RESPONSE,
                dimse.RESPONDED_TO: command.message_id,
                dimse.STATUS: 0,
                dimse.AFFECTED_SOP_INSTANCE: command.elements.get(dimse.AFFECTED_SOP_INSTANCE, b""),
            },
        )
        return found
