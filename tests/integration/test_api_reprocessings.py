"""How far reprocessings are, over HTTP."""

from __future__ import annotations

from collections.abc import Callable

import bulk
import httpx
import pytest

from storage.database import Database
from storage.studies import Received


def test_the_latest_reprocessings_are_told(
    http: httpx.Client, database: Database, make_received: Callable[..., Received]
) -> None:
    assert http.get("/api/reprocessings").json() == {"items": []}
    archive = bulk.Archive(database, make_received)
    archive.fill(6)
    first = archive.start()
    archive.change("cancel", first.reprocessing_pk)
    second = archive.start(images_per_s=9.0)
    archive.record(scored=archive.claim(3).jobs)
    newest, oldest = http.get("/api/reprocessings").json()["items"]
    assert (oldest["reprocessing_pk"], oldest["state"]) == (first.reprocessing_pk, "cancelled")
    assert (newest["reprocessing_pk"], newest["state"]) == (second.reprocessing_pk, "running")
    assert (newest["total"], newest["scored"], newest["images_per_s"]) == (6, 3, 9.0)
    assert newest["left_s"] == pytest.approx(3 / newest["pace"], rel=1e-3)
    assert len(http.get("/api/reprocessings?limit=1").json()["items"]) == 1
