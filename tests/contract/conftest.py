"""Both adapters of the object store, the second against a real S3 server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from rclone_server import S3Server


@pytest.fixture
def s3_server(tmp_path: Path):
    server = S3Server(tmp_path / "s3")
    server.start()
    yield server
    server.stop()
