"""A decoder as it must never be, to be run in a process of its own."""

from __future__ import annotations

import os
import signal
import time


def crash(*_: object) -> None:
    """End like a decoder that wrote where it should not."""
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(*_: object) -> None:
    """Never end."""
    while True:
        time.sleep(60)
