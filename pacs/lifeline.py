"""The line between the supervisor and one of its parts: "I am ready" one way, "I am still here" the other.

It is a socket pair. The part says once that it is ready; when the supervisor dies, however suddenly, the kernel closes
its end and the part stops too, so that nobody is left who holds a port or a lease.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

__all__ = ["Lifeline"]

_READY = b"ready\n"
_GRACE_S = 30.0


class Lifeline:
    """The part's end; `fd` is the inherited descriptor, None where nobody supervises."""

    def __init__(self, fd: int | None) -> None:
        self._socket: socket.socket | None = None
        if fd is not None:
            self._socket = socket.socket(fileno=fd)
            self._socket.set_inheritable(False)
            threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def ready(self, *_: object) -> None:
        """Tell the supervisor that work is taken from now on; arguments are ignored, so it serves as a callback."""
        if self._socket is not None:
            self._socket.sendall(_READY)

    def _watch(self) -> None:
        assert self._socket is not None
        try:
            while self._socket.recv(16):
                pass
        except OSError:
            pass
        os.kill(os.getpid(), signal.SIGTERM)  # drain as if asked to
        time.sleep(_GRACE_S)
        os._exit(1)
