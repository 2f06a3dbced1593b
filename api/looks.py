"""Who looked at what, in the audit log."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from storage import audit
from storage.database import Database

__all__ = ["Looks"]

_LOOK_S = 600.0
_MOST_LOOKS = 10_000


class Looks:
    """Notes who looked at which study in the audit log: once in ten minutes, not once for each of a thousand images."""

    def __init__(self) -> None:
        self._noted: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, database: Database, actor: str, action: str, study_uid: str) -> None:
        """Write an entry unless there is a recent one of this process. Call it in a thread."""
        key, now = (actor, action, study_uid), time.monotonic()
        with self._lock:
            if now - self._noted.get(key, -_LOOK_S) < _LOOK_S:
                return
            self._noted[key] = now
            self._noted.move_to_end(key)
            if len(self._noted) > _MOST_LOOKS:
                self._noted.popitem(last=False)
        try:
            with database.autocommit() as connection:
                audit.add(connection, actor, action, study_uid)
        except BaseException:
            with self._lock:
                self._noted.pop(key, None)
            raise
