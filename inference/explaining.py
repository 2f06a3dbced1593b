"""The maps of what was flagged, stored beside the scores: later than the score, and in nobody's way.

The score is committed first. One thread then makes the map, writes it as an object and names it in the score's row. A
worker that is killed in between leaves a score without maps: the study is flagged all the same, and scoring it again
makes them. At most `_WAITING` images wait here, so the worker's memory stays bounded where the store is slow.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt
import structlog

from models.bundle import Bundle
from models.data import ABNORMAL
from models.features import Head
from models.maps import Maps, activation, pack
from models.preprocess import Frame
from storage import findings
from storage.database import Database
from storage.errors import SanglocError, Unavailable
from storage.findings import Score
from storage.objects import ObjectStore
from storage.objects.keys import new_key

__all__ = ["Explained", "MapKeeper", "explain"]

log = structlog.get_logger()
T = TypeVar("T")
_WAITING = 64  # images
_AGAIN_S = (0.5, 1.0, 2.0, 5.0, 5.0)  # waits while database or store is away; then the map is given up


class Explained(NamedTuple):
    """What the maps of one flagged image are made of."""

    score: Score
    head: Head
    outputs: tuple[int, ...]  # of the network, in the order of `names`
    names: tuple[str, ...]
    features: npt.NDArray[np.float32]  # [c, h, w]
    frame: Frame

    def maps(self) -> Maps:
        """The map of each name."""
        rows = list(self.outputs)
        return Maps(self.names, activation(self.features, self.head.weights[rows], self.head.bias[rows]), self.frame)


def explain(
    bundle: Bundle, head: Head | None, score: Score, features: npt.NDArray[np.float32] | None, frame: Frame
) -> list[Explained]:
    """What to map of an image: abnormal and the findings that the list names; nothing where it is not flagged.

    A network without an output 'Abnormal' is flagged by its greatest finding, which is then mapped.
    """
    if not score.flagged or head is None or features is None or not np.isfinite(features).all():
        return []
    named = [name for name in (ABNORMAL, *(finding.name for finding in score.listed)) if name in bundle.outputs]
    names = tuple(named or [max(score.findings, key=lambda finding: finding.probability).name])
    return [Explained(score, head, tuple(map(bundle.outputs.index, names)), names, np.array(features), frame)]


class MapKeeper:
    """One thread that stores maps; leaving it waits for those in hand."""

    def __init__(self, database: Database, store: ObjectStore) -> None:
        self._database = database
        self._store = store
        self._room = threading.BoundedSemaphore(_WAITING)
        self._ending = threading.Event()

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="maps")
        return self

    def __exit__(self, *exc: object) -> None:
        self._ending.set()  # what is away is not waited for any more
        self._pool.shutdown(wait=True)

    def keep(self, explained: Iterable[Explained]) -> None:
        """Store these maps soon, after their scores were committed; waits only where too many wait already."""
        for one in explained:
            self._room.acquire()
            self._pool.submit(self._keep, one).add_done_callback(lambda _: self._room.release())

    def drain(self) -> None:
        """Wait until all that was given is stored or given up."""
        self._pool.submit(lambda: None).result()

    def _keep(self, one: Explained) -> None:
        try:
            content, key = pack(one.maps()), new_key(one.score.study_uid)
            self._patiently(lambda: self._write(key, content))
            if not self._patiently(lambda: self._name(one.score, key)):  # scored twice, or deleted meanwhile
                self._patiently(lambda: self._store.delete(key))
        except SanglocError as error:
            log.warning("a map could not be stored", study_uid=one.score.study_uid, error=str(error))
        except Exception:
            log.exception("no map could be made", study_uid=one.score.study_uid)

    def _write(self, key: str, content: bytes) -> None:
        with self._store.writer(key) as writer:
            writer.write([content])
            writer.commit()

    def _name(self, score: Score, key: str) -> bool:
        with self._database.autocommit() as connection:
            return findings.name_map(connection, score, key)

    def _patiently(self, attempt: Callable[[], T]) -> T:
        for wait in _AGAIN_S:
            try:
                return attempt()
            except Unavailable as error:
                if self._ending.wait(wait):
                    raise
                log.warning("a map waits", error=str(error))
        return attempt()
