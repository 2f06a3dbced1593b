"""What an association may carry (PS3.7 D.3.2, PS3.8 9.3)."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import AllTransferSyntaxes
from pynetdicom.pdu import A_ASSOCIATE_AC
from pynetdicom.sop_class import _STORAGE_CLASSES

from pacs.dimse.contexts import STORAGE_CLASSES, Context, Negotiated, is_private, negotiate
from pacs.dimse.wire import INVALID_PARAMETER, ProtocolError
from pacs.part10 import IMPLEMENTATION_CLASS_UID

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from raw_dicom import CT, EXPLICIT, IMPLICIT, VERIFICATION, Raw

PRIVATE = "1.2.840.113619.4.26"


def _ask(contexts, *, allow_private: bool = False, **request) -> Negotiated:
    return negotiate(Raw.request(contexts, **request)[6:], max_pdu_bytes=1 << 20, allow_private=allow_private)


def _results(answer: Negotiated) -> dict[int, int]:
    pdu = A_ASSOCIATE_AC()
    pdu.decode(answer.accept_pdu)
    return {context.context_id: context.result for context in pdu.presentation_context}


def test_all_storage_classes_of_pynetdicom_are_known():
    assert {str(uid) for uid in _STORAGE_CLASSES.values()} <= STORAGE_CLASSES
    assert CT in STORAGE_CLASSES
    assert "1.2.840.10008.5.1.4.1.1.6" in STORAGE_CLASSES  # retired ultrasound: old archives send it
    assert "1.2.840.10008.1.3.10" not in STORAGE_CLASSES  # DICOMDIR
    assert "1.2.840.10008.5.1.4.38.1" not in STORAGE_CLASSES  # a hanging protocol has no study
    assert "1.2.840.10008.1.20.1" not in STORAGE_CLASSES  # storage commitment


@pytest.mark.parametrize("sop_class", sorted(STORAGE_CLASSES))
def test_every_storage_class_is_accepted(sop_class: str):
    answer = _ask([(sop_class, [EXPLICIT])])
    assert answer.contexts == {1: Context(sop_class, EXPLICIT)}
    assert _results(answer) == {1: 0}


@pytest.mark.parametrize("syntax", [*AllTransferSyntaxes, "1.2.840.113619.5.2", "1.2.276.0.7230010.3.1.9.9"])
def test_every_transfer_syntax_is_accepted_for_storage(syntax: str):
    assert _ask([(CT, [syntax])]).contexts == {1: Context(CT, syntax)}


def test_the_sender_says_in_which_form_it_holds_the_object():
    jpeg = "1.2.840.10008.1.2.4.70"
    answer = _ask([(CT, [jpeg, EXPLICIT, IMPLICIT]), (CT, [IMPLICIT, jpeg])])
    assert answer.contexts == {1: Context(CT, jpeg), 3: Context(CT, IMPLICIT)}


def test_what_is_not_served_is_refused_and_the_rest_is_not():
    answer = _ask(
        [
            ("1.2.840.10008.5.1.4.1.2.3.1", [IMPLICIT]),  # patient/study only, retired
            (VERIFICATION, [IMPLICIT]),
            (VERIFICATION, ["1.2.840.10008.1.2.4.50"]),  # a JPEG echo
            ("1.2.840.10008.3.1.2.1.1", [IMPLICIT]),  # detached patient management, retired
            (CT, [EXPLICIT]),
        ]
    )
    assert _results(answer) == {1: 3, 3: 0, 5: 4, 7: 3, 9: 0}
    assert set(answer.contexts) == {3, 9}


def test_private_classes_are_a_matter_of_policy():
    assert is_private(PRIVATE)
    assert _results(_ask([(PRIVATE, [EXPLICIT])])) == {1: 3}
    assert _ask([(PRIVATE, [EXPLICIT])], allow_private=True).contexts == {1: Context(PRIVATE, EXPLICIT)}


def test_the_answer_echoes_the_titles_and_names_us():
    request = Raw.request(called="SANGLOC", calling="CT1")
    answer = negotiate(request[6:], max_pdu_bytes=123456, allow_private=False)
    assert answer.accept_pdu[10:74] == request[10:74]
    pdu = A_ASSOCIATE_AC()
    pdu.decode(answer.accept_pdu)
    assert pdu.user_information.maximum_length == 123456
    assert pdu.user_information.implementation_class_uid == IMPLEMENTATION_CLASS_UID
    assert answer.peer_max_pdu_bytes == 16384


def test_roles_are_answered_for_a_later_retrieve():
    uid = CT.encode()
    body = struct.pack(">H", len(uid)) + uid + b"\0\1"  # the requestor wants to be SCP (PS3.7 D.3.3.4)
    pdu = A_ASSOCIATE_AC()
    pdu.decode(_ask([(CT, [EXPLICIT])], user=struct.pack(">BxH", 0x54, len(body)) + body).accept_pdu)
    (role,) = pdu.user_information.role_selection.values()
    assert (role.uid, role.scu_role, role.scp_role) == (CT, 0, 1)


def test_user_identity_and_asynchronous_operations_get_no_answer():
    """PS3.7 D.3.3.3, D.3.3.7: no answer means one operation at a time and no identity check."""
    user = struct.pack(">BxHHH", 0x53, 4, 8, 8) + struct.pack(">BxHBBH", 0x58, 10, 1, 1, 4) + b"user\0\0"
    pdu = A_ASSOCIATE_AC()
    pdu.decode(_ask(None, user=user).accept_pdu)
    assert pdu.user_information.async_ops_window is None
    assert pdu.user_information.user_identity is None


def test_128_contexts():
    uids = sorted(STORAGE_CLASSES)[:127]
    answer = _ask([(VERIFICATION, [IMPLICIT])] + [(uid, list(AllTransferSyntaxes)) for uid in uids])
    assert len(answer.contexts) == 128


def test_a_context_id_that_stands_twice_or_is_even_is_refused():
    request = bytearray(Raw.request([(CT, [EXPLICIT]), (CT, [IMPLICIT])])[6:])
    second = request.index(b"\x20\0", request.index(b"\x20\0", 68) + 4)
    for number in (1, 2, 0):
        request[second + 4] = number
        with pytest.raises(ProtocolError) as raised:
            negotiate(bytes(request), max_pdu_bytes=1 << 20, allow_private=False)
        assert raised.value.reason == INVALID_PARAMETER


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_garbled_request_is_answered_or_refused_but_nothing_else(data):
    request = bytearray(Raw.request()[6:])
    for _ in range(data.draw(st.integers(1, 6))):
        request[data.draw(st.integers(0, len(request) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(request)))
    try:
        answer = negotiate(bytes(request[:cut]), max_pdu_bytes=1 << 20, allow_private=True)
    except ProtocolError:
        return
    assert all(key % 2 for key in answer.contexts)
