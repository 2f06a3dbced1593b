"""Which SOP classes and transfer syntaxes an association may use (PS3.8 7.1.1, PS3.7 D.3.2).

pynetdicom reads and writes the association PDUs; what is accepted is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import presentation
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
)

from pacs.dimse.wire import ASSOCIATE_RQ, INVALID_PARAMETER, ProtocolError
from pacs.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacs.storage_classes import STORAGE_CLASSES, is_private

__all__ = [
    "APPLICATION_CONTEXT",
    "FIND_OPTIONS",
    "MODALITY_WORKLIST",
    "MPPS",
    "PATIENT_ROOT_FIND",
    "PATIENT_ROOT_GET",
    "PATIENT_ROOT_MOVE",
    "RETRIEVE",
    "STORAGE_CLASSES",
    "STORAGE_COMMITMENT",
    "STUDY_ROOT_FIND",
    "STUDY_ROOT_GET",
    "STUDY_ROOT_MOVE",
    "VERIFICATION",
    "Context",
    "Negotiated",
    "is_private",
    "negotiate",
]

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"  # PS3.7 A.2.1


VERIFICATION = "1.2.840.10008.1.1"

PATIENT_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"  # PS3.4 C.6.1.3
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"  # PS3.4 C.6.2.3
PATIENT_ROOT_MOVE, STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.1.2", "1.2.840.10008.5.1.4.1.2.2.2"  # PS3.4 C.6
PATIENT_ROOT_GET, STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.1.3", "1.2.840.10008.5.1.4.1.2.2.3"
RETRIEVE = (PATIENT_ROOT_MOVE, STUDY_ROOT_MOVE, PATIENT_ROOT_GET, STUDY_ROOT_GET)

# Abstract syntaxes of services other than storage.
MODALITY_WORKLIST = "1.2.840.10008.5.1.4.31"  # PS3.4 K.6.1.3
MPPS = "1.2.840.10008.3.1.2.3.3"  # PS3.4 F.7.2.3
STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"  # push model (PS3.4 J)
_SERVED = (VERIFICATION, PATIENT_ROOT_FIND, STUDY_ROOT_FIND, *RETRIEVE, STORAGE_COMMITMENT, MODALITY_WORKLIST, MPPS)
_PLAIN = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]  # nothing deflated: no bombs

# What extended negotiation may agree on, byte by byte (PS3.4 C.5.1.1): relational queries, combined date and time,
# fuzzy person names, time zones, enhanced multi-frame conversion, empty values, multiple values.
FIND_OPTIONS: Mapping[str, bytes] = {
    PATIENT_ROOT_FIND: bytes((1, 1, 1, 1, 0, 1, 1)),
    STUDY_ROOT_FIND: bytes((1, 1, 1, 1, 0, 1, 1)),
}


@dataclass(frozen=True, slots=True)
class Context:
    """One accepted presentation context: its abstract syntax and the one transfer syntax of its data sets."""

    abstract_syntax: str
    transfer_syntax: str
    peer_is_scp: bool = False  # the requestor takes C-STORE requests in it, as a C-GET needs (PS3.7 D.3.3.4)


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The answer to an A-ASSOCIATE-RQ."""

    accept_pdu: bytes
    contexts: Mapping[int, Context]
    peer_max_pdu_bytes: int  # 0: no limit
    peer_implementation: str
    options: Mapping[str, bytes] = field(default_factory=dict)  # extended negotiation by SOP class (PS3.7 D.3.3.5)


@lru_cache(maxsize=32)  # a modality that opens one association for each image asks the same each time
def negotiate(request: bytes, *, max_pdu_bytes: int, allow_private: bool) -> Negotiated:
    """Answer the body of an A-ASSOCIATE-RQ PDU (its bytes behind the length field).

    Every storage SOP class is accepted with the first transfer syntax that the peer names: senders put the form in
    which they hold the object first, and it is kept as it comes. Raises `ProtocolError` when it cannot be read.
    """
    try:
        pdu = A_ASSOCIATE_RQ()
        pdu.decode(bytes((ASSOCIATE_RQ, 0)) + len(request).to_bytes(4, "big") + request)
        primitive = pdu.to_primitive()
        proposed = primitive.presentation_context_definition_list
        asked_roles = _roles(primitive)
        results, roles = _answer(proposed, asked_roles, allow_private)
        options = _options(primitive, results)
    except Exception as error:  # pynetdicom lets struct, value and key errors of garbage through
        raise ProtocolError(INVALID_PARAMETER, f"A-ASSOCIATE-RQ cannot be read: {type(error).__name__}") from error
    if not proposed or len({context.context_id for context in proposed}) < len(proposed):
        raise ProtocolError(INVALID_PARAMETER, "no presentation context, or two with one id")
    return Negotiated(
        accept_pdu=_accept(request, results, roles, options, max_pdu_bytes),
        contexts={
            context.context_id: Context(
                str(context.abstract_syntax),
                str(context.transfer_syntax[0]),
                peer_is_scp=asked_roles.get(context.abstract_syntax, (True, False))[1],
            )
            for context in results
            if context.result == 0
        },
        peer_max_pdu_bytes=_user_item(primitive, MaximumLengthNotification, "maximum_length_received") or 0,
        peer_implementation=str(
            _user_item(primitive, ImplementationVersionNameNotification, "implementation_version_name") or ""
        ),
        options={str(item.sop_class_uid): item.service_class_application_information for item in options},
    )


def _answer(
    proposed: list[Any], roles: dict[UID, tuple[bool, bool]], allow_private: bool
) -> tuple[list[Any], list[Any]]:
    """What we serve goes through pynetdicom's negotiation; everything else is refused as an unknown abstract syntax."""
    wanted: list[Any] = []
    refused: list[Any] = []
    for context in proposed:
        uid = str(context.abstract_syntax)
        known = uid in _SERVED or uid in STORAGE_CLASSES or (allow_private and is_private(uid))
        (wanted if known else refused).append(context)
    ours = [presentation.build_context(uid, None if uid == VERIFICATION else _PLAIN) for uid in _SERVED]
    for context in ours:  # a peer may be the SCP of a commitment: it reports on what we asked it to commit
        context.scu_role = context.scp_role = True if context.abstract_syntax == STORAGE_COMMITMENT else None
    results, reply_roles = presentation.negotiate_unrestricted(wanted, ours, roles)
    results += presentation.negotiate_as_acceptor(refused, ours)[0]
    return sorted(results, key=lambda context: int(context.context_id)), reply_roles


def _roles(primitive: Any) -> dict[UID, tuple[bool, bool]]:
    items = (i for i in primitive.user_information if isinstance(i, SCP_SCU_RoleSelectionNegotiation))
    return {item.sop_class_uid: (bool(item.scu_role), bool(item.scp_role)) for item in items}


def _options(primitive: Any, results: list[Any]) -> list[Any]:
    """The answers to extended negotiation of query services: of what was asked for, what is served (PS3.4 C.5.1.1)."""
    accepted = {str(context.abstract_syntax) for context in results if context.result == 0}
    answers = []
    for item in primitive.user_information:
        if isinstance(item, SOPClassExtendedNegotiation) and item.sop_class_uid in FIND_OPTIONS.keys() & accepted:
            served = FIND_OPTIONS[item.sop_class_uid]
            answer = SOPClassExtendedNegotiation()
            answer.sop_class_uid = item.sop_class_uid
            asked = item.service_class_application_information or b""
            answer.service_class_application_information = bytes(a & s & 1 for a, s in zip(asked, served, strict=False))
            answers.append(answer)
    return answers


def _user_item(primitive: Any, kind: type, attribute: str) -> Any:
    return next((getattr(item, attribute) for item in primitive.user_information if isinstance(item, kind)), None)


def _accept(request: bytes, results: list[Any], roles: list[Any], options: list[Any], max_pdu_bytes: int) -> bytes:
    """The A-ASSOCIATE-AC PDU; asynchronous operations and user identity get no answer, so neither is in force."""
    length, uid, version = (
        MaximumLengthNotification(),
        ImplementationClassUIDNotification(),
        ImplementationVersionNameNotification(),
    )
    length.maximum_length_received = max_pdu_bytes
    uid.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    primitive = A_ASSOCIATE()
    primitive.application_context_name = APPLICATION_CONTEXT
    primitive.called_ae_title = primitive.calling_ae_title = "ECHOED-BELOW"
    primitive.presentation_context_definition_results_list = results
    primitive.user_information = [length, uid, version, *roles, *options]
    primitive.result = 0
    encoded: bytes = A_ASSOCIATE_AC(primitive).encode()
    # Bytes 11 to 74 are given back as they came and are not tested (PS3.8 table 9-17).
    return encoded[:10] + request[4:68] + encoded[74:]
