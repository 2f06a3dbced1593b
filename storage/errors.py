"""Every error that sangloc raises on purpose; the docstring of a class is its default message.

    SanglocError
    ├── InvalidInput                 what came in cannot be taken, and trying again will not help
    │   ├── InvalidUID
    │   ├── InvalidDataSet
    │   ├── InvalidIdentifier        a query that does not fit what is queried
    │   ├── ObjectTooLarge
    │   ├── InvalidBundle
    │   └── Conflict                 what is asked contradicts what is
    ├── NotFound
    ├── Unavailable                  a part we need is away; trying again later is right
    │   ├── DatabaseUnavailable
    │   ├── ObjectStoreUnavailable
    │   │   └── ObjectStoreFull
    │   └── PeerUnavailable          another system that we talk to is away, or broke off
    │       └── PeerRefused          it answers, and says no to the association
    ├── DigestMismatch               stored bytes are not the bytes that were acknowledged
    ├── NotTranscodable              an object that cannot be sent in any form that the receiver takes
    ├── NotScorable                  an instance that no model reads; the reason is for a person
    └── SettingsError                the settings contradict each other or are unsafe

Errors know nothing of DICOM or HTTP: each edge has one table from error to status (`pacs/dimse/status.py`,
`api/problems.py`).
"""

# ruff: noqa: N818 - named for what is, as in `raise NotFound`

from __future__ import annotations

import inspect

__all__ = [
    "Conflict",
    "DatabaseUnavailable",
    "DigestMismatch",
    "InvalidBundle",
    "InvalidDataSet",
    "InvalidIdentifier",
    "InvalidInput",
    "InvalidUID",
    "NotFound",
    "NotScorable",
    "NotTranscodable",
    "ObjectStoreFull",
    "ObjectStoreUnavailable",
    "ObjectTooLarge",
    "PeerRefused",
    "PeerUnavailable",
    "SanglocError",
    "SettingsError",
    "Unavailable",
]


class SanglocError(Exception):
    """Something went wrong in sangloc."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or inspect.getdoc(type(self)) or type(self).__name__)


class InvalidInput(SanglocError):
    """The input cannot be accepted."""


class InvalidUID(InvalidInput):
    """A UID is not a valid DICOM unique identifier (PS3.5 9.1)."""


class InvalidDataSet(InvalidInput):
    """The data set cannot be indexed."""


class InvalidIdentifier(InvalidInput):
    """The query does not fit what is queried."""


class ObjectTooLarge(InvalidInput):
    """The object is larger than the configured limit."""


class InvalidBundle(InvalidInput):
    """The model bundle cannot be used."""


class Conflict(InvalidInput):
    """What is asked contradicts what is."""


class NotFound(SanglocError):
    """There is no such thing here."""


class Unavailable(SanglocError):
    """A part that is needed is not available now."""


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached."""


class ObjectStoreUnavailable(Unavailable):
    """The object store cannot be reached."""


class ObjectStoreFull(ObjectStoreUnavailable):
    """The object store has no room left."""


class PeerUnavailable(Unavailable):
    """The other system cannot be reached, or it broke off."""


class PeerRefused(PeerUnavailable):
    """The other system refuses the association."""


class DigestMismatch(SanglocError):
    """The stored bytes do not match their SHA-256."""


class NotScorable(SanglocError):
    """The instance cannot be scored."""


class NotTranscodable(SanglocError):
    """The object cannot be sent in any form that the receiver takes."""


class SettingsError(SanglocError):
    """The settings cannot be used."""
