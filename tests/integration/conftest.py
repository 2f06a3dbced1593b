"""An archive and a running HTTP server over it, for the tests named test_api_*."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from storage.database import Database

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from archive import Archive
from http_server import client, serving


@pytest.fixture
def archive(database: Database, store: Any) -> Archive:
    """An empty archive."""
    return Archive(database, store)


@pytest.fixture
def http(archive: Archive) -> Iterator[httpx.Client]:
    """A client of a server without tokens."""
    with serving(archive.database, archive.store) as address, client(address) as opened:
        yield opened
