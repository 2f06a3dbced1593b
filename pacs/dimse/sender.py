"""C-STORE to another application entity (PS3.4 B): used by C-MOVE, forwarding and `sangloc send`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Self

from pacs.dimse import command as dimse
from pacs.dimse.proposal import MOST_CONTEXTS, Proposal
from pacs.dimse.pump import HalfSentError, Pump
from pacs.dimse.requestor import EXPLICIT, IMPLICIT, CallerPolicy, Requestor, pool
from pacs.outgoing import Outgoing, open_outgoing
from pacs.retrieve import StoredInstance
from storage.errors import ObjectStoreUnavailable
from storage.objects import ObjectStore
from storage.peers import Peer

__all__ = ["CallerPolicy", "Kind", "Originator", "Patience", "Sender", "in_associations", "store_request"]

Kind = tuple[str, str]
"""SOP class and transfer syntax of stored objects (`pacs.retrieve.Selection.kinds`)."""

Originator = tuple[str, int]
"""Who asked for a C-MOVE: calling AE title and message id of its request (PS3.7 9.1.1.1.7)."""

_LOSS = 0.9  # of all attempts in silence
_PRIORITY, _ORIGINATOR_AET, _ORIGINATOR_ID = 0x0700, 0x1030, 0x1031


class Sender(Requestor):
    """An association on which objects of the given kinds are stored at a peer. See `Requestor`.

    Each kind is proposed as it is stored, in a context of its own so that the peer cannot choose another form for it,
    and its SOP class uncompressed. At most 128 contexts fit in an association: see `in_associations`.
    """

    def __init__(
        self, peer: Peer, policy: CallerPolicy, kinds: Sequence[Kind], *, tick: Callable[[], None] | None = None
    ) -> None:
        super().__init__(peer, policy, proposals(kinds), tick=tick)
        self._pump: Pump | None = None
        self._ids: dict[Kind, int] = {}

    def __enter__(self) -> Self:
        super().__enter__()
        self._pump = Pump(self.wire, pool, self.peer_max_pdu_bytes, self.policy.timeout_s)
        self._ids = {(c.abstract_syntax, c.transfer_syntax): number for number, c in self.contexts.items()}
        return self

    def accepted(self, sop_class: str) -> list[str]:
        """The transfer syntaxes in which the peer takes objects of this class."""
        return [c.transfer_syntax for c in self.contexts.values() if c.abstract_syntax == sop_class]

    def send_stored(self, store: ObjectStore, instance: StoredInstance, originator: Originator | None = None) -> int:
        """`store` for an object of the archive, in the stored form where the peer takes that.

        Raises:
            NotTranscodable: the peer takes it in no form that can be made.
            NotFound, ObjectStoreUnavailable: the object cannot be read.
            PeerUnavailable: as in `store`.
        """
        return self.store(open_outgoing(store, instance, self.accepted(instance.sop_class)), originator)

    def store(self, outgoing: Outgoing, originator: Originator | None = None) -> int:
        """C-STORE one object; the status of the answer (0000: success, Bxxx: stored with a warning).

        Raises:
            SanglocError: the object cannot be read or made; the association goes on unless it was half sent.
            PeerUnavailable: the association has ended.
        """
        instance = outgoing.instance
        message_id = self.next_message_id()
        context_id = self._ids[instance.sop_class, outgoing.transfer_syntax]
        request = store_request(instance.sop_class, instance.sop_uid, message_id, originator)
        assert self._pump is not None
        with self.translated():
            try:
                self._pump.send(context_id, request, outgoing)
            except HalfSentError as error:
                self.abort()
                raise ObjectStoreUnavailable(str(error)) from error
        return self.response(message_id).number(dimse.STATUS) or 0

    def _close(self) -> None:
        if self._pump is not None:
            self._pump.close()
            self._pump = None
        super()._close()


def store_request(sop_class: str, sop_uid: str, message_id: int, originator: Originator | None = None) -> bytes:
    """The command set of a C-STORE request (PS3.7 9.3.1.1)."""
    elements: dict[int, int | bytes] = {
        dimse.AFFECTED_SOP_CLASS: sop_class.encode(),
        dimse.COMMAND_FIELD: dimse.C_STORE_RQ,
        dimse.MESSAGE_ID: message_id,
        _PRIORITY: 0,  # medium
        dimse.DATA_SET_TYPE: 1,
        dimse.AFFECTED_SOP_INSTANCE: sop_uid.encode(),
    }
    if originator is not None:
        title = originator[0].encode("ascii", "replace")
        elements |= {_ORIGINATOR_AET: title + b" " * (len(title) % 2), _ORIGINATOR_ID: originator[1]}
    return dimse.encode(elements)


def proposals(kinds: Sequence[Kind]) -> list[Proposal]:
    """The presentation contexts for these kinds, each as it is stored first."""
    wanted: dict[Proposal, None] = {}
    for sop_class, stored in kinds:
        wanted[Proposal(sop_class, (stored,))] = None
    for sop_class in dict.fromkeys(sop_class for sop_class, _ in kinds):
        for plain in (EXPLICIT, IMPLICIT):
            wanted.setdefault(Proposal(sop_class, (plain,)))
    return list(wanted)


def in_associations(kinds: Sequence[Kind], *, spare: int = 0) -> list[list[Kind]]:
    """The kinds in as few groups as fit in one association each, with room for `spare` further contexts."""
    groups: list[list[Kind]] = []
    for kind in kinds:
        if groups and len(proposals([*groups[-1], kind])) <= MOST_CONTEXTS - spare:
            groups[-1].append(kind)
        else:
            groups.append([kind])
    return groups


class Patience:
    """How long a peer that fails is asked again: some attempts for an object, and a limit on the time that is lost.

    A peer that breaks off at one object is asked again for the next one, which may be a better one; a peer that is
    silent costs `timeout_s` each time, and after `attempts` such times since it last took something it is given up.
    """

    def __init__(self, policy: CallerPolicy, pause: Callable[[float], None] = time.sleep) -> None:
        self._policy, self._pause = policy, pause
        self._lost_s = 0.0
        self.given_up = False

    def attempts(self) -> Iterator[int]:
        """Numbers of attempts for one object, with growing pauses between; leave the loop after a success."""
        for number in range(self._policy.attempts):
            if self.given_up:
                return
            if number:
                self._pause(self._policy.pause_s * 2 ** (number - 1))
            start = time.monotonic()
            yield number
            self._lost_s += time.monotonic() - start
            self.given_up = self._lost_s > self._policy.timeout_s * self._policy.attempts * _LOSS

    def ended(self, *, success: bool, connected: bool = True) -> None:
        """One object was taken, or all attempts for it were in vain; a peer without connection is given up."""
        if success:
            self._lost_s = 0.0
        elif not connected:
            self.given_up = True
