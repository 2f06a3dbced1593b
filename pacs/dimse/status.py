"""The one table of DIMSE statuses, and from an error to its status.

`docs/conformance.md` shows the same table; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from storage.errors import InvalidIdentifier, InvalidInput, InvalidUID, ObjectTooLarge, SanglocError, Unavailable

__all__ = [
    "CANCELLED",
    "CANNOT_UNDERSTAND",
    "DATA_SET_MISSING",
    "FIND_STATUSES",
    "IDENTIFIER_MISMATCH",
    "IDENTIFIER_MISSING",
    "IDENTIFIER_UNREADABLE",
    "INVALID_SOP_INSTANCE",
    "OBJECT_TOO_LARGE",
    "OUT_OF_RESOURCES",
    "PENDING",
    "PENDING_WARNING",
    "PROCESSING_FAILURE",
    "QUERY_OUT_OF_RESOURCES",
    "RESULT_CUT",
    "SOP_CLASS_NOT_SUPPORTED",
    "STATUSES",
    "SUCCESS",
    "UNRECOGNIZED_OPERATION",
    "Status",
    "find_status_of",
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


def status_of(error: SanglocError) -> Status:
    """The status that tells a sender of this error."""
    return next(status for kind, status in _BY_ERROR if isinstance(error, kind))


def find_status_of(error: SanglocError) -> Status:
    """The status that tells the sender of a query of this error."""
    return next(status for kind, status in _FIND_BY_ERROR if isinstance(error, kind))
