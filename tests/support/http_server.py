"""The real HTTP server in a thread of the test, on a free loopback port."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator

import httpx

from api import server
from api.config import ApiConfig
from pacs.ingest import Ingest
from storage.database import Database
from storage.objects import ObjectStore


@contextlib.contextmanager
def serving(
    database: Database, store: ObjectStore, config: ApiConfig | None = None, ingest: Ingest | None = None
) -> Iterator[str]:
    """The address of a server that runs until the block ends; its end must not take long."""
    ports: queue.Queue[int] = queue.Queue()
    stop = threading.Event()
    thread = threading.Thread(
        target=server.run,
        args=(database, store, config or ApiConfig()),
        kwargs={"port": 0, "on_ready": ports.put, "stop": stop, "ingest": ingest},
    )
    thread.start()
    try:
        yield f"http://127.0.0.1:{ports.get(timeout=20)}"
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive(), "the server did not stop"


def client(address: str, token: str = "") -> httpx.Client:
    """A client that keeps its connection, with a token if given."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=address, headers=headers, timeout=20)


def problem(answer: httpx.Response, status: int) -> dict[str, object]:
    """The problem document of an answer (RFC 9457), after checking that it is one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, object] = answer.json()
    assert body["status"] == status
    assert body["title"]
    assert "Traceback" not in answer.text
    return body
