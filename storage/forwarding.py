"""x"""
from __future__ import annotations
from collections.abc import Sequence
from storage.commitment import Asked
from storage.database import Connection
def take_report(connection: Connection, transaction_uid: str, committed: Sequence[Asked], failed: Sequence[tuple[Asked, int]]) -> bool:
    return False
