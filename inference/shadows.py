"""Models in shadow: they score what the active model has scored, later, and nobody waits for them.

Their inputs are made where the film is decoded; the networks run while nothing live is to be done, or when many images
wait for them. A shadow that fails is told and left out until it is loaded again; the live score is stored by then.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import structlog

from inference.scoring import Model, score
from inference.triage import TriagePolicy
from storage import findings
from storage.database import Database
from storage.errors import Unavailable
from storage.jobs import Job

__all__ = ["Shadowed", "Shadows", "shadow_inputs"]

log = structlog.get_logger()
_MOST = 64  # images that wait; 224 px in three channels are 0.6 MB each


class Shadowed(NamedTuple):
    """One image for one model in shadow."""

    job: Job
    model: Model
    network_input: npt.NDArray[np.float32]


def shadow_inputs(job: Job, models: Sequence[Model], film: npt.NDArray[np.generic]) -> list[Shadowed]:
    """The film as each model in shadow wants it; one that cannot have it is left out."""
    made = []
    for model in models:
        try:
            made.append(Shadowed(job, model, model.bundle.prepare(film)))
        except Exception as error:  # whatever it is, it is not the live model's affair
            log.warning(
                "a shadow cannot read an image", sop_uid=job.sop_uid, model=model.bundle.name, error=repr(error)
            )
    return made


class Shadows:
    """Images that wait for models in shadow, for one worker's thread."""

    def __init__(
        self, database: Database, policy: TriagePolicy, batch_size: int, failed: Callable[[Model, str], None]
    ) -> None:
        self._database = database
        self._policy = policy
        self._batch_size = batch_size
        self._failed = failed
        self._waiting: deque[Shadowed] = deque()

    @property
    def many(self) -> bool:
        """Whether so many wait that some must be done now."""
        return len(self._waiting) >= _MOST

    def add(self, images: Sequence[Shadowed]) -> None:
        """Images that the live model has scored."""
        self._waiting.extend(images)

    def work(self) -> bool:
        """Score a batch of one model, if any waits; whether something was done. Raises nothing."""
        if not self._waiting:
            return False
        model = self._waiting[0].model
        batch: list[Shadowed] = []
        while self._waiting and self._waiting[0].model.engine is model.engine and len(batch) < self._batch_size:
            batch.append(self._waiting.popleft())
        try:
            self._record(batch)
        except Unavailable as error:
            log.warning("scores in shadow were not stored", images=len(batch), error=str(error))
            return False
        except Exception as error:
            log.exception("a model in shadow failed", model=model.bundle.name)
            self._waiting = deque(one for one in self._waiting if one.model.engine is not model.engine)
            self._failed(model, f"in shadow, {type(error).__name__}: {error}")
        return True

    def _record(self, batch: Sequence[Shadowed]) -> None:
        begun = time.perf_counter()
        outputs = batch[0].model.engine.predict(np.stack([one.network_input for one in batch]))
        each_ms = (time.perf_counter() - begun) * 1000 / len(batch)
        each_features = [None] * len(batch) if outputs.features is None else outputs.features
        scores = [
            replace(
                score(self._policy, one.model, one.job, row, features, decode_ms=0.0, inference_ms=each_ms),
                shadow=True,
            )
            for one, row, features in zip(batch, outputs.logits, each_features, strict=True)
            if np.isfinite(row).all()
        ]
        with self._database.transaction() as connection:
            findings.record_scores(connection, scores)
