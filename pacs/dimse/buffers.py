"""Buffers that come and go with work, so that an idle connection holds none."""

from __future__ import annotations

import mmap
import threading

__all__ = ["BufferPool"]

_BUFFER_BYTES = 1 << 19


class BufferPool:
    """Receive buffers shared by all connections of a process, so that an idle association holds none."""

    def __init__(self, buffer_bytes: int = _BUFFER_BYTES, keep: int = 32) -> None:
        self.buffer_bytes = buffer_bytes
        self._keep = keep
        self._free: list[memoryview] = []
        self._lock = threading.Lock()

    def take(self) -> memoryview:
        """A buffer with arbitrary content."""
        with self._lock:
            if self._free:
                return self._free.pop()
        return memoryview(mmap.mmap(-1, self.buffer_bytes))  # leaves the process whole when it is dropped

    def give(self, buffer: memoryview) -> None:
        """Give a buffer back."""
        with self._lock:
            if len(self._free) < self._keep:
                self._free.append(buffer)
