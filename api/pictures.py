"""Pictures that were made a while ago, in memory, within a bound."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from api.rendering import Rendered

__all__ = ["Pictures"]

_OVERHEAD_BYTES = 500  # of an entry beside the picture


class Pictures:
    """The pictures that were asked for last, by entity tag, which names content and everything that shapes it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, Rendered] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def find(self, tag: str) -> Rendered | None:
        """The picture, if it is still there."""
        with self._lock:
            found = self._kept.get(tag)
            if found is not None:
                self._kept.move_to_end(tag)
            return found

    def get(self, tag: str, make: Callable[[], Rendered]) -> Rendered:
        """The picture, made where it is missing."""
        found = self.find(tag)
        if found is None:
            found = make()
            self._keep(tag, found)
        return found

    def _keep(self, tag: str, picture: Rendered) -> None:
        with self._lock:
            if len(picture.body) > self._max_bytes // 4:
                return  # it would drive out many others
            if tag not in self._kept:
                self._bytes += len(picture.body) + _OVERHEAD_BYTES
            self._kept[tag] = picture
            while self._bytes > self._max_bytes:
                _, old = self._kept.popitem(last=False)
                self._bytes -= len(old.body) + _OVERHEAD_BYTES
