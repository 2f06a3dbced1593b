"""C-MOVE: the objects go to a third party, an AE of the registry (PS3.4 C.4.2)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import structlog

from pacs.dimse.sender import Kind, Originator, Patience, Sender, in_associations
from pacs.dimse.status import CANNOT_COUNT, DESTINATION_UNKNOWN
from pacs.dimse.suboperations import SubOperations, asked_for, refuse, serve
from pacs.retrieve import Selection, StoredInstance
from storage import peers
from storage.errors import DatabaseUnavailable, PeerUnavailable, SanglocError

if TYPE_CHECKING:
    from pacs.dimse.association import Association
    from pacs.dimse.command import Command
    from pacs.dimse.policy import CallerPolicy
    from storage.objects import ObjectStore
    from storage.peers import Peer

__all__ = ["Destination", "move"]

log = structlog.get_logger()

_MOVE_DESTINATION = 0x0600
_SLICE_S = 0.25  # of a pause between two attempts


def move(association: Association, request: Command) -> None:
    """Send what the identifier names to the Move Destination (PS3.7 9.1.4)."""
    title = request.elements.get(_MOVE_DESTINATION, b"").rstrip(b"\0 ").decode("ascii", "backslashreplace")
    try:
        with association.ingest.database.autocommit() as connection:
            peer = peers.by_aet(connection, title)
    except DatabaseUnavailable as error:
        refuse(association, request, CANNOT_COUNT, str(error))
        return
    if peer is None:
        refuse(association, request, DESTINATION_UNKNOWN, f"no peer has the AE title {title[:16]}")
        return
    selection = asked_for(association, request)
    if selection is not None:
        originator = (association.calling, request.message_id)
        serve(association, request, selection, lambda ops: _run(association, peer, selection, originator, ops))


def _run(
    association: Association, peer: Peer, selection: Selection, originator: Originator, operations: SubOperations
) -> None:
    policy = association.policy.caller
    store, kinds = association.ingest.store, selection.kinds()
    with Destination(peer, policy, store, kinds, originator=originator, tick=operations.tick) as destination:
        for instance in selection:
            operations.tick()
            operations.count(destination.store(instance), instance.sop_uid)


class Destination:
    """A peer to which many objects go, on as few associations as their kinds need; a context manager.

    A peer that breaks off or is silent is called again, see `Patience`; once it is given up, nothing more is tried.
    """

    def __init__(
        self,
        peer: Peer,
        policy: CallerPolicy,
        store: ObjectStore,
        kinds: Sequence[Kind],
        *,
        originator: Originator,
        tick: Callable[[], None],
    ) -> None:
        self._peer, self._policy, self._store = peer, policy, store
        self._groups = in_associations(kinds)
        self._group_of = {kind: number for number, group in enumerate(self._groups) for kind in group}
        self._senders: dict[int, Sender] = {}
        self._originator, self._tick = originator, tick
        self._patience = Patience(policy, self._pause)

    def store(self, instance: StoredInstance) -> int | None:
        """The status of one C-STORE; None when the object cannot be sent. Raises what `tick` raises."""
        group = self._group_of.get((instance.sop_class, instance.transfer_syntax), 0)
        for attempt in self._patience.attempts():
            try:
                status = self._sender(group).send_stored(self._store, instance, self._originator)
            except PeerUnavailable as error:
                log.warning("destination failed", peer=self._peer.name, reason=str(error), attempt=attempt + 1)
            except SanglocError as error:
                log.warning("object not sent", sop_uid=instance.sop_uid, reason=str(error), peer=self._peer.name)
                return None
            else:
                self._patience.ended(success=True)
                return status
        self._patience.ended(success=False, connected=self._senders.pop(group, None) is not None)
        return None

    def _sender(self, group: int) -> Sender:
        """The association for a group of kinds, opened where there is none (any more)."""
        sender = self._senders.get(group)
        if sender is None or not sender.alive:
            self._senders.pop(group, None)
            sender = Sender(self._peer, self._policy, self._groups[group], tick=self._tick).__enter__()
            self._senders[group] = sender
        return sender

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _SLICE_S))
            self._tick()

    def __enter__(self) -> Destination:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for sender in self._senders.values():
            if kind is None:
                sender.release()
            else:
                sender.abort()
