"""Orders for tests, and the waits that their priorities promise."""

from __future__ import annotations

import datetime as dt
from typing import Any

from pacs.ordering import Desk, Origin
from storage import orders
from storage.database import Database

WAITS = {"STAT": (2, dt.timedelta(minutes=15)), "HIGH": (1, dt.timedelta(hours=1))}
ME = Origin("me")


def promise(priority: str, _ae_title: str) -> tuple[int, dt.timedelta]:
    """15 minutes for STAT, an hour for HIGH, eight for the rest."""
    return WAITS.get(priority, (0, dt.timedelta(hours=8)))


DESK = Desk(promise)


def order(*steps: dict[str, Any], study_uid: str = "", **over: Any) -> dict[str, Any]:
    """An order as the API takes it."""
    whole = [{"modality": "DX", "start": "2026-11-22T08:00:00", **step} for step in steps or ({},)]
    return {
        "patient": {"id": "BN1", "name": "Nguyễn^Văn An", "birth_date": "1961-04-30", "sex": "M"},
        "procedures": [{"study_uid": study_uid, "steps": whole}],
        **over,
    }


def place(database: Database, *steps: dict[str, Any], **over: Any) -> int:
    """A placed order's number."""
    with database.transaction() as connection:
        return DESK.new(connection, order(*steps, **over), ME)


def change(database: Database, number: int, **what: Any) -> list[orders.Change]:
    """Change an order."""
    with database.transaction() as connection:
        return DESK.change(connection, number, what, ME)


def read(database: Database, number: int) -> orders.Stored:
    """An order as it stands."""
    with database.autocommit() as connection:
        return orders.get(connection, number)


def study_uid_of(database: Database, number: int) -> str:
    """The first study UID that an order planned."""
    return read(database, number).order.procedures[0].study_uid
