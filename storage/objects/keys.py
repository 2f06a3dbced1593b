"""Object keys: made here, checked here, and never from anything that a modality sent."""

from __future__ import annotations

import hashlib
import os
import re

from storage.errors import NotFound

__all__ = ["is_key", "new_key", "validate"]

_VALID = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{32}\.dcm", re.ASCII)


def new_key(study_uid: str) -> str:
    """A key that no object ever had: `ab/cd/<128 random bits in hex>.dcm`.

    The shard `ab/cd` is taken from a digest of the study UID, so that the files of a study lie in one folder.
    """
    shard = hashlib.blake2b(study_uid.encode(), digest_size=2).hexdigest()
    return f"{shard[:2]}/{shard[2:]}/{os.urandom(16).hex()}.dcm"


def is_key(text: str) -> bool:
    """Whether `new_key` could have made this text."""
    return _VALID.fullmatch(text) is not None


def validate(key: str) -> str:
    """The key itself; raises `NotFound` for anything that is none (`../` and the like)."""
    if not is_key(key):
        raise NotFound(f"{key[:80]!r} is not an object key")
    return key
