"""The answer of STOW-RS: the Store Instances Response Module (PS3.18 I.1), and the HTTP status that sums it up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from storage.errors import InvalidInput, NotFound, ObjectTooLarge, SanglocError, Unavailable

__all__ = ["Answer", "Reason", "Stored", "Warned", "reason_of"]

_TAGS = {
    "ReferencedSOPClassUID": ("00081150", "UI"),
    "ReferencedSOPInstanceUID": ("00081155", "UI"),
    "RetrieveURL": ("00081190", "UR"),
    "WarningReason": ("00081196", "US"),
    "FailureReason": ("00081197", "US"),
    "FailedSOPSequence": ("00081198", "SQ"),
    "ReferencedSOPSequence": ("00081199", "SQ"),
    "OtherFailuresSequence": ("0008119A", "SQ"),
}


class Reason(IntEnum):
    """Failure Reason (0008,1197); the codes are those of PS3.18 table I.2-2 and PS3.7 annex C."""

    PROCESSING_FAILURE = 0x0110
    DUPLICATE_INSTANCE = 0x0111  # other bytes are stored under this UID already; these are kept aside
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    OUT_OF_RESOURCES = 0xA700  # object store or database away or full: trying again is right
    TOO_LARGE = 0xA710
    OTHER_STUDY = 0xA901  # the data set is of another study than the address
    CANNOT_UNDERSTAND = 0xC000
    TRANSFER_SYNTAX_NOT_SUPPORTED = 0xC122


class Warned(IntEnum):
    """Warning Reason (0008,1196), PS3.18 table I.2-1."""

    NONE = 0
    META_DISAGREES = 0xB007  # the file meta names another object than the data set, which was believed


_BY_ERROR: tuple[tuple[type[SanglocError], Reason], ...] = (
    (ObjectTooLarge, Reason.TOO_LARGE),
    (Unavailable, Reason.OUT_OF_RESOURCES),
    (InvalidInput, Reason.CANNOT_UNDERSTAND),
    (NotFound, Reason.CANNOT_UNDERSTAND),
    (SanglocError, Reason.PROCESSING_FAILURE),
)


def reason_of(error: SanglocError) -> Reason:
    """The failure reason that tells of this error."""
    return next(reason for kind, reason in _BY_ERROR if isinstance(error, kind))


@dataclass(frozen=True, slots=True)
class Stored:
    """One instance that is durable and indexed."""

    sop_class: str
    sop_uid: str
    study_uid: str
    series_uid: str
    warning: Warned = Warned.NONE


@dataclass(frozen=True, slots=True)
class _Failed:
    sop_class: str
    sop_uid: str
    reason: Reason


@dataclass(slots=True)
class Answer:
    """What became of each instance of one request."""

    stored: list[Stored] = field(default_factory=list)
    failed: list[_Failed] = field(default_factory=list)
    why: str = ""  # the first failure, for a person
    unavailable: bool = False  # object store or database was away: then nothing more is tried

    def fail(self, reason: Reason, why: str, sop_class: str = "", sop_uid: str = "") -> None:
        """Note a failure; without the UIDs it goes to the Other Failures Sequence."""
        self.failed.append(_Failed(sop_class, sop_uid, reason))
        self.why = self.why or why
        self.unavailable |= reason is Reason.OUT_OF_RESOURCES

    @property
    def entries(self) -> int:
        """Instances told of."""
        return len(self.stored) + len(self.failed)

    @property
    def status(self) -> int:
        """The HTTP status (PS3.18 table 10.5.3-1); 200 only when every instance is durable."""
        reasons = {one.reason for one in self.failed}
        if self.stored:
            return 202 if reasons or any(one.warning for one in self.stored) else 200
        if Reason.OUT_OF_RESOURCES in reasons:
            return 503
        if reasons == {Reason.TOO_LARGE}:
            return 413
        return 400 if reasons <= {Reason.CANNOT_UNDERSTAND} else 409

    def attributes(self, root: str) -> dict[str, Any]:
        """The module in the DICOM JSON model; `root` is the address of the service, without a slash at its end."""
        studies = list(dict.fromkeys(one.study_uid for one in self.stored))
        one_study = f"{root}/studies/{studies[0]}" if len(studies) == 1 else None
        return _model(
            RetrieveURL=one_study,
            FailedSOPSequence=[_reference(one, FailureReason=one.reason) for one in self.failed if one.sop_uid],
            ReferencedSOPSequence=[
                _reference(
                    one,
                    RetrieveURL=f"{root}/studies/{one.study_uid}/series/{one.series_uid}/instances/{one.sop_uid}",
                    WarningReason=one.warning or (),
                )
                for one in self.stored
            ],
            OtherFailuresSequence=[_model(FailureReason=one.reason) for one in self.failed if not one.sop_uid],
        )


def _reference(one: Stored | _Failed, **more: object) -> dict[str, Any]:
    uids: Mapping[str, object] = {
        "ReferencedSOPClassUID": one.sop_class or None,
        "ReferencedSOPInstanceUID": one.sop_uid,
    }
    return _model(**uids, **more)


def _model(**values: object) -> dict[str, Any]:
    """Attributes by keyword; None is an empty value, an empty list leaves the attribute away."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        tag, vr = _TAGS[name]
        if value is None:
            found[tag] = {"vr": vr}
        elif isinstance(value, list):
            if value:
                found[tag] = {"vr": vr, "Value": value}
        elif value != ():
            found[tag] = {"vr": vr, "Value": [int(value) if isinstance(value, int) else value]}
    return dict(sorted(found.items()))
