"""Which SOP classes are stored: those of the Storage Service Class, by every way in (PS3.4 B.5)."""

from __future__ import annotations

from pydicom._uid_dict import UID_dictionary

__all__ = ["STORAGE_CLASSES", "is_private"]

_STANDARD_ROOT = "1.2.840.10008."
_NEWER = frozenset(  # of later editions than pydicom's dictionary
    {
        "1.2.840.10008.5.1.4.1.1.9.100.1",
        "1.2.840.10008.5.1.4.1.1.9.100.2",
        "1.2.840.10008.5.1.4.1.1.66.7",
        "1.2.840.10008.5.1.4.1.1.66.8",
    }
)
_NOT_STORAGE_SERVICE = frozenset(  # "Storage" by name, but not of the Storage Service Class (PS3.4 B)
    {
        "1.2.840.10008.1.3.10",  # Media Storage Directory: only on media (PS3.10)
        "1.2.840.10008.1.20.1",  # Storage Commitment: a service of its own (PS3.4 J)
        "1.2.840.10008.1.20.2",
        "1.2.840.10008.5.1.1.27",  # Stored Print: retired, no patient and no study
        "1.2.840.10008.5.1.4.1.1.200.1",  # Non-Patient Object Storage (PS3.4 GG): no study to put them under
        "1.2.840.10008.5.1.4.1.1.200.3",
        "1.2.840.10008.5.1.4.1.1.200.7",
        "1.2.840.10008.5.1.4.1.1.201.1",
        "1.2.840.10008.5.1.4.38.1",
        "1.2.840.10008.5.1.4.39.1",
        "1.2.840.10008.5.1.4.43.1",
        "1.2.840.10008.5.1.4.44.1",
        "1.2.840.10008.5.1.4.45.1",
    }
)

STORAGE_CLASSES = (
    frozenset(uid for uid, (name, kind, *_) in UID_dictionary.items() if kind == "SOP Class" and "Storage" in name)
    | _NEWER
) - _NOT_STORAGE_SERVICE
"""UIDs; retired ones too, because archives that move send them."""


def is_private(uid: str) -> bool:
    """Whether a UID is not one of the DICOM standard (PS3.5 9.2)."""
    return not uid.startswith(_STANDARD_ROOT)
