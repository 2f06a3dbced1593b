"""The one table of DIMSE statuses, and from an error to its status.

`docs/conformance.md` shows the same table; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from storage.errors import InvalidIdentifier, InvalidInput, InvalidUID, ObjectTooLarge, SanglocError, Unavailable

__all__ = [
    "CANCELLED",
    "CANNOT_COUNT",
    "CANNOT_PERFORM",
    "CANNOT_UNDERSTAND",
    "COMMITMENT_STATUSES",
    "DATA_SET_MISSING",
    "DESTINATION_UNKNOWN",
    "DUPLICATE_STEP",
    "DUPLICATE_TRANSACTION",
    "FIND_STATUSES",
    "IDENTIFIER_MISMATCH",
    "IDENTIFIER_MISSING",
    "IDENTIFIER_UNREADABLE",
    "INVALID_ARGUMENT",
    "INVALID_SOP_INSTANCE",
    "INVALID_VALUE",
    "MISSING_ATTRIBUTE",
    "MISSING_VALUE",
    "MPPS_INVALID_INSTANCE",
    "MPPS_PROCESSING_FAILURE",
    "MPPS_RESOURCES",
    "MPPS_STATUSES",
    "MPPS_WRONG_CLASS",
    "NO_SUCH_ACTION",
    "NO_SUCH_EVENT",
    "NO_SUCH_INSTANCE",
    "NO_SUCH_SOP_CLASS",
    "NO_SUCH_STEP",
    "OBJECT_TOO_LARGE",
    "OUT_OF_RESOURCES",
    "PENDING",
    "PENDING_WARNING",
    "PROCESSING_FAILURE",
    "QUERY_OUT_OF_RESOURCES",
    "RESOURCE_LIMITATION",
    "RESULT_CUT",
    "RETRIEVE_MISMATCH",
    "RETRIEVE_STATUSES",
    "RETRIEVE_UNREADABLE",
    "SOP_CLASS_NOT_SUPPORTED",
    "STATUSES",
    "STEP_IS_OVER",
    "SUB_OPERATIONS_CANCELLED",
    "SUB_OPERATIONS_PENDING",
    "SUB_OPERATIONS_WARNING",
    "SUCCESS",
    "UNRECOGNIZED_OPERATION",
    "Status",
    "find_status_of",
    "retrieve_status_of",
    "status_of",
]


@dataclass(frozen=True, slots=True)
class Status:
    """A value of Status (0000,0900): its name in the standard, the clause, and when sangloc answers it."""

    code: int
    meaning: str
    clause: str
    when: str


SUCCESS = Status(
    0x0000,
    "Success",
    "PS3.4 B.2.3",
    "The object is durable and indexed; or it was there with the same bytes; or it is kept aside as a conflict",
)
PROCESSING_FAILURE = Status(0x0110, "Processing failure", "PS3.7 C", "A fault of the receiver; trying again is right")
INVALID_SOP_INSTANCE = Status(
    0x0117,
    "Invalid SOP Instance",
    "PS3.7 9.1.1.1.9",
    "Affected SOP Instance UID is not a UID; the object is kept aside",
)
SOP_CLASS_NOT_SUPPORTED = Status(
    0x0122,
    "SOP Class not supported",
    "PS3.7 9.1.1.1.9",
    "Affected SOP Class UID is not that of the presentation context",
)
UNRECOGNIZED_OPERATION = Status(0x0211, "Unrecognized operation", "PS3.7 C", "No such service on this receiver")
OUT_OF_RESOURCES = Status(
    0xA700, "Refused: Out of resources", "PS3.4 B.2.3", "Object store or database away or full; trying again is right"
)
OBJECT_TOO_LARGE = Status(
    0xA710, "Refused: Out of resources", "PS3.4 B.2.3", "The data set is longer than the configured limit"
)
CANNOT_UNDERSTAND = Status(
    0xC000,
    "Error: Cannot understand",
    "PS3.4 B.2.3",
    "The data set cannot be read, lacks a UID or contradicts the command; it is kept aside",
)
DATA_SET_MISSING = Status(0xC001, "Error: Cannot understand", "PS3.4 B.2.3", "A C-STORE request without a data set")

STATUSES: tuple[Status, ...] = (
    SUCCESS,
    PROCESSING_FAILURE,
    INVALID_SOP_INSTANCE,
    SOP_CLASS_NOT_SUPPORTED,
    UNRECOGNIZED_OPERATION,
    OUT_OF_RESOURCES,
    OBJECT_TOO_LARGE,
    CANNOT_UNDERSTAND,
    DATA_SET_MISSING,
)

# Of C-FIND, besides success and the general ones above.
PENDING = Status(0xFF00, "Pending", "PS3.4 C.4.1.1.4", "One match")
PENDING_WARNING = Status(
    0xFF01, "Pending", "PS3.4 C.4.1.1.4", "One match; an optional key is not supported for matching or for return"
)
CANCELLED = Status(0xFE00, "Cancel", "PS3.4 C.4.1.1.4", "The peer sent a C-CANCEL")
QUERY_OUT_OF_RESOURCES = Status(
    0xA700, "Refused: Out of resources", "PS3.4 C.4.1.1.4", "The database is away, or the query takes it too long"
)
IDENTIFIER_MISMATCH = Status(
    0xA900,
    "Error: Data Set does not match SOP Class",
    "PS3.4 C.4.1.1.4",
    "The level is none of the model, or a unique key is missing that a hierarchical query needs",
)
IDENTIFIER_UNREADABLE = Status(
    0xC000, "Failed: Unable to process", "PS3.4 C.4.1.1.4", "The identifier or a matching value in it is malformed"
)
IDENTIFIER_MISSING = Status(
    0xC001, "Failed: Unable to process", "PS3.4 C.4.1.1.4", "A C-FIND request without a data set"
)
RESULT_CUT = Status(
    0xB001, "Warning", "PS3.7 C.3", "There are more matches than `find_max_results`; the Error Comment says so"
)

FIND_STATUSES: tuple[Status, ...] = (
    PENDING,
    PENDING_WARNING,
    CANCELLED,
    QUERY_OUT_OF_RESOURCES,
    IDENTIFIER_MISMATCH,
    IDENTIFIER_UNREADABLE,
    IDENTIFIER_MISSING,
    RESULT_CUT,
)

# Of the storage commitment push model: N-ACTION and N-EVENT-REPORT, besides success and processing failure.
NO_SUCH_INSTANCE = Status(
    0x0112, "No such SOP Instance", "PS3.7 10.1.4.1.10", "Not the well-known instance 1.2.840.10008.1.20.1.1"
)
NO_SUCH_EVENT = Status(0x0113, "No such event type", "PS3.7 10.1.1.1.8", "Neither 1 nor 2 (PS3.4 J.3.3.1.1)")
INVALID_ARGUMENT = Status(
    0x0115, "Invalid argument value", "PS3.7 10.1.4.1.10", "The data set is unreadable, lacks a UID or is too long"
)
NO_SUCH_SOP_CLASS = Status(0x0118, "No such SOP Class", "PS3.7 10.1.4.1.10", "Not the push model in the context")
NO_SUCH_ACTION = Status(0x0123, "No such action type", "PS3.7 10.1.4.1.10", "Not 1 (PS3.4 J.3.2.1.1)")
DUPLICATE_TRANSACTION = Status(
    0x0131,
    "Duplicate transaction UID",
    "PS3.3 C.14.1.1",
    "The requester used the transaction UID for other instances; for the same ones it is a repetition, and welcome",
)
RESOURCE_LIMITATION = Status(
    0x0213, "Resource limitation", "PS3.7 10.1.4.1.10", "The database is away; trying again is right"
)

COMMITMENT_STATUSES: tuple[Status, ...] = (
    NO_SUCH_INSTANCE,
    NO_SUCH_EVENT,
    INVALID_ARGUMENT,
    NO_SUCH_SOP_CLASS,
    NO_SUCH_ACTION,
    DUPLICATE_TRANSACTION,
    RESOURCE_LIMITATION,
)

# Of C-MOVE and C-GET, besides success and the general ones above.
SUB_OPERATIONS_PENDING = Status(0xFF00, "Pending", "PS3.4 C.4.2.1.5", "Sub-operations go on; at most one a second")
SUB_OPERATIONS_CANCELLED = Status(0xFE00, "Cancel", "PS3.4 C.4.2.1.5", "The peer sent a C-CANCEL")
SUB_OPERATIONS_WARNING = Status(
    0xB000, "Warning", "PS3.4 C.4.2.1.5", "Some sub-operations failed, or were answered with a warning"
)
CANNOT_COUNT = Status(
    0xA701, "Refused: Out of resources", "PS3.4 C.4.2.1.5", "The database is away: the matches cannot be counted"
)
CANNOT_PERFORM = Status(
    0xA702,
    "Refused: Out of resources",
    "PS3.4 C.4.2.1.5",
    "No sub-operation succeeded, as when the destination is away or takes none of the objects",
)
DESTINATION_UNKNOWN = Status(
    0xA801, "Refused: Move destination unknown", "PS3.4 C.4.2.1.5", "No peer of the AE registry has this AE title"
)
RETRIEVE_MISMATCH = Status(
    0xA900,
    "Error: Data Set does not match SOP Class",
    "PS3.4 C.4.2.1.5",
    "The level is none of the model, or its unique key is missing",
)
RETRIEVE_UNREADABLE = Status(
    0xC000, "Failed: Unable to process", "PS3.4 C.4.2.1.5", "The identifier is missing or malformed"
)

RETRIEVE_STATUSES: tuple[Status, ...] = (
    SUB_OPERATIONS_PENDING,
    SUB_OPERATIONS_CANCELLED,
    SUB_OPERATIONS_WARNING,
    CANNOT_COUNT,
    CANNOT_PERFORM,
    DESTINATION_UNKNOWN,
    RETRIEVE_MISMATCH,
    RETRIEVE_UNREADABLE,
)

# Of modality performed procedure steps: N-CREATE and N-SET, besides success.
INVALID_VALUE = Status(
    0x0106,
    "Invalid attribute value",
    "PS3.7 C.4",
    "A step that does not begin IN PROGRESS, a state or UID that is none",
)
STEP_IS_OVER = Status(
    0x0110,
    "Performed Procedure Step Object may no longer be updated",
    "PS3.4 F.7.2.2.2",
    "The step is COMPLETED or DISCONTINUED; Error ID (0000,0903) is A710",
)
MPPS_PROCESSING_FAILURE = Status(0x0110, "Processing failure", "PS3.7 C.4", "A fault of the receiver")
DUPLICATE_STEP = Status(0x0111, "Duplicate SOP Instance", "PS3.7 C.4", "N-CREATE of a step that is known")
NO_SUCH_STEP = Status(0x0112, "No such SOP Instance", "PS3.7 C.4", "N-SET of a step that nobody created")
MPPS_INVALID_INSTANCE = Status(0x0117, "Invalid object instance", "PS3.7 C.4", "The SOP Instance UID is not a UID")
MPPS_WRONG_CLASS = Status(0x0119, "Class-instance conflict", "PS3.7 C.4", "SOP Class is not that of the context")
MISSING_ATTRIBUTE = Status(
    0x0120, "Missing attribute", "PS3.7 C.4", "A type 1 attribute of PS3.4 table F.7.2-1 is missing; it is listed"
)
MISSING_VALUE = Status(0x0121, "Missing attribute value", "PS3.7 C.4", "Such an attribute is empty; it is listed")
MPPS_RESOURCES = Status(0x0213, "Resource limitation", "PS3.7 C.4", "The database is away; trying again is right")

MPPS_STATUSES: tuple[Status, ...] = (
    INVALID_VALUE,
    STEP_IS_OVER,
    MPPS_PROCESSING_FAILURE,
    DUPLICATE_STEP,
    NO_SUCH_STEP,
    MPPS_INVALID_INSTANCE,
    MPPS_WRONG_CLASS,
    MISSING_ATTRIBUTE,
    MISSING_VALUE,
    MPPS_RESOURCES,
)

# The first class that fits counts, so a subclass stands before its base.
_BY_ERROR: tuple[tuple[type[SanglocError], Status], ...] = (
    (ObjectTooLarge, OBJECT_TOO_LARGE),
    (InvalidUID, INVALID_SOP_INSTANCE),
    (InvalidInput, CANNOT_UNDERSTAND),
    (Unavailable, OUT_OF_RESOURCES),
    (SanglocError, PROCESSING_FAILURE),
)


_FIND_BY_ERROR: tuple[tuple[type[SanglocError], Status], ...] = (
    (InvalidIdentifier, IDENTIFIER_MISMATCH),
    (InvalidInput, IDENTIFIER_UNREADABLE),
    (Unavailable, QUERY_OUT_OF_RESOURCES),
    (SanglocError, PROCESSING_FAILURE),
)


_RETRIEVE_BY_ERROR: tuple[tuple[type[SanglocError], Status], ...] = (
    (InvalidIdentifier, RETRIEVE_MISMATCH),
    (InvalidInput, RETRIEVE_UNREADABLE),
    (Unavailable, CANNOT_COUNT),
    (SanglocError, PROCESSING_FAILURE),
)


def status_of(error: SanglocError) -> Status:
    """The status that tells a sender of this error."""
    return next(status for kind, status in _BY_ERROR if isinstance(error, kind))


def find_status_of(error: SanglocError) -> Status:
    """The status that tells the sender of a query of this error."""
    return next(status for kind, status in _FIND_BY_ERROR if isinstance(error, kind))


def retrieve_status_of(error: SanglocError) -> Status:
    """The status that tells the sender of a C-MOVE or C-GET of an error before the first sub-operation."""
    return next(status for kind, status in _RETRIEVE_BY_ERROR if isinstance(error, kind))
