"""The association PDUs of the side that asks, and patience with a peer that fails."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.pdu import A_ASSOCIATE_RQ

from pacs.dimse.contexts import STORAGE_CLASSES, negotiate
from pacs.dimse.policy import CallerPolicy
from pacs.dimse.proposal import MOST_CONTEXTS, Proposal, associate_request, read_accept, read_reject
from pacs.dimse.sender import Patience, in_associations, proposals, store_request
from pacs.dimse.wire import ProtocolError

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT, IMPLICIT, JPEG_LS = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.80"
ASKED = [Proposal(CT, (JPEG_LS,)), Proposal(CT, (EXPLICIT, IMPLICIT), as_scp=True), Proposal(MR, (IMPLICIT,))]


def accepted(asked: list[Proposal]) -> bytes:
    """What our own receiver answers."""
    request = associate_request("CALLED", "CALLING", asked, 65536)
    return negotiate(request[6:], max_pdu_bytes=131072, allow_private=False).accept_pdu


def test_pynetdicom_reads_the_request_as_it_is_meant() -> None:
    raw = associate_request("CALLED", "CALLING", ASKED, 65536)
    pdu = A_ASSOCIATE_RQ()
    pdu.decode(raw)
    asked = pdu.to_primitive()
    assert (asked.called_ae_title, asked.calling_ae_title) == ("CALLED", "CALLING")
    contexts = asked.presentation_context_definition_list
    assert [context.context_id for context in contexts] == [1, 3, 5]
    assert [list(map(str, context.transfer_syntax)) for context in contexts] == [
        list(proposal.transfer_syntaxes) for proposal in ASKED
    ]
    assert pdu.user_information.maximum_length == 65536
    (role,) = pdu.user_information.role_selection.values()
    assert (role.uid, role.scu_role, role.scp_role) == (CT, False, True)


def test_an_accept_is_read() -> None:
    found = read_accept(accepted(ASKED)[6:], ASKED)
    assert {number: (c.abstract_syntax, c.transfer_syntax) for number, c in found.contexts.items()} == {
        1: (CT, JPEG_LS), 3: (CT, EXPLICIT), 5: (MR, IMPLICIT)
    }  # fmt: skip
    assert found.peer_max_pdu_bytes == 131072


def test_an_accept_of_what_was_not_asked_is_an_error() -> None:
    body = accepted(ASKED)[6:]
    for wrong in (ASKED[:2], [Proposal(CT, (IMPLICIT,)), *ASKED[1:]]):
        with pytest.raises(ProtocolError):
            read_accept(body, wrong)


@given(st.binary(max_size=200), st.integers(60, 160))
def test_garbage_in_an_accept_is_a_protocol_error_or_nothing(garbage: bytes, at: int) -> None:
    body = bytearray(accepted(ASKED)[6:])
    body[at : at + len(garbage)] = garbage
    try:
        found = read_accept(bytes(body), ASKED)
    except ProtocolError:
        return
    assert set(found.contexts) <= {1, 3, 5}


@given(st.binary(max_size=10))
def test_any_rejection_has_a_reason(body: bytes) -> None:
    for_good, reason = read_reject(body)
    assert reason
    assert isinstance(for_good, bool)
    assert read_reject(b"\0\1\1\7") == (True, "called AE title not recognized")
    assert read_reject(b"\0\2\3\2") == (False, "local limit exceeded")


def test_each_kind_is_proposed_as_it_is_stored_and_uncompressed() -> None:
    found = proposals([(CT, JPEG_LS), (CT, EXPLICIT), (MR, IMPLICIT)])
    assert [(one.abstract_syntax, *one.transfer_syntaxes) for one in found] == [
        (CT, JPEG_LS), (CT, EXPLICIT), (MR, IMPLICIT), (CT, IMPLICIT), (MR, EXPLICIT)
    ]  # fmt: skip


def test_many_kinds_need_several_associations() -> None:
    kinds = [(uid, syntax) for uid in sorted(STORAGE_CLASSES) for syntax in (JPEG_LS, EXPLICIT)]
    for spare in (0, 1):
        groups = in_associations(kinds, spare=spare)
        assert [kind for group in groups for kind in group] == kinds
        assert max(len(proposals(group)) for group in groups) <= MOST_CONTEXTS - spare
        assert len(groups) <= len(kinds) // 40 + 1


def test_a_request_names_who_asked_for_the_move() -> None:
    from pacs.dimse.command import decode

    command = decode(1, store_request(CT, "1.2.3", 7, ("WORKSTATION", 9)))
    assert command.elements[0x1030] == b"WORKSTATION "
    assert (command.number(0x1031), command.message_id, command.uid(0x1000)) == (9, 7, "1.2.3")


class Clock:
    """Time that only passes where a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.pauses = 0.0, []
        monkeypatch.setattr("time.monotonic", lambda: self.now)

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def lost(patience: Patience, clock: Clock, seconds: float, connected: bool = True) -> int:
    """One object all of whose attempts fail after so many seconds; how many there were."""
    count = 0
    for _ in patience.attempts():
        clock.now += seconds
        count += 1
    patience.ended(success=False, connected=connected)
    return count


def test_patience_with_quick_failures_is_long_and_with_silence_is_bounded(monkeypatch: Any) -> None:
    clock = Clock(monkeypatch)
    patience = Patience(CallerPolicy(timeout_s=30, attempts=3, pause_s=1), clock.pause)
    assert [lost(patience, clock, 0.1) for _ in range(50)] == [3] * 50
    assert clock.pauses[:4] == [1, 2, 1, 2]
    patience.ended(success=True)
    assert lost(patience, clock, 30) == 3
    assert patience.given_up
    assert lost(patience, clock, 30) == 0


def test_a_success_makes_patient_again(monkeypatch: Any) -> None:
    clock = Clock(monkeypatch)
    patience = Patience(CallerPolicy(timeout_s=30, attempts=3, pause_s=0), clock.pause)
    for _ in range(10):
        for attempt in patience.attempts():
            clock.now += 30
            if attempt == 1:
                break
        patience.ended(success=True)
    assert not patience.given_up


def test_a_peer_that_nobody_reaches_is_given_up_at_once(monkeypatch: Any) -> None:
    clock = Clock(monkeypatch)
    patience = Patience(CallerPolicy(attempts=2), clock.pause)
    assert lost(patience, clock, 0, connected=False) == 2
    assert lost(patience, clock, 0) == 0
