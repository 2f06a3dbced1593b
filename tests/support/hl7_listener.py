"""Listeners for HL7 over MLLP in threads of this process, over a real database."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ordering import DESK

from pacs.hl7.config import Limits
from pacs.hl7.listener import serve
from pacs.hl7.processing import Processor
from storage.database import Database

__all__ = ["listeners"]


@contextlib.contextmanager
def listeners(database: Database, stop: threading.Event) -> Iterator[Callable[..., int]]:
    """Starts one with these limits, within TLS where a context is given; the port. All must stop soon at the end."""
    threads: list[threading.Thread] = []
    stack = contextlib.ExitStack()

    def starts(*tls: ssl.SSLContext, **limits: Any) -> int:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        arguments = (listener, Processor(database, DESK), Limits(**limits), stop, *tls)
        threads.append(threading.Thread(target=serve, args=arguments))
        threads[-1].start()
        return int(listener.getsockname()[1])

    yield starts
    stop.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    stack.close()
