"""The worker: jobs from the database, images from the store, probabilities from the engine, due times to the worklist.

    claim a batch ─▶ threads: fetch, verify, decode, prepare ─▶ engine ─▶ calibrate ─▶ due time ─▶ one transaction
         ▲ LISTEN wakes it, else it looks every second              while the engine runs, the next batch is read

What is away (database, store) is waited for: the jobs in hand are kept, their attempts do not grow. Without a model the
worker claims nothing, says why in its sign of life, and looks for a model again and again. A batch never waits to
fill: while one is worked on, the next gathers by itself.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import structlog

from inference import triage
from inference.bulk import Bulk, is_bulk
from inference.engine import Device, load_engine
from inference.explaining import MapKeeper, explain
from inference.pulse import Pulse
from inference.reading import Read, read_job
from inference.scoring import Model, Result, check_operating_points, score
from inference.wakeup import Wakeup
from models.bundle import Bundle, load_bundle
from models.outlier import load_outlier
from storage import findings, jobs, worklist
from storage.database import Database
from storage.errors import InvalidBundle, NotScorable, Unavailable
from storage.objects import ObjectStore
from storage.reprocessing import ModelRef

__all__ = ["Worker", "WorkerConfig"]

log = structlog.get_logger()
T = TypeVar("T")
_AWAY_S = 0.5  # first wait for a part that is away; doubles up to
_AWAY_MAX_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """How a worker works."""

    name: str = ""  # '' makes host:pid:start
    device: Device = "auto"
    batch_size: int = 8  # images for the engine at once, at most
    lease_s: float = 60.0  # a job of a worker that died is taken over after so long
    max_attempts: int = 5
    backoff_s: float = 2.0  # before a failed job is tried again; doubles
    poll_s: float = 1.0  # looks for jobs so often when nothing wakes it
    reload_s: float = 10.0  # looks for a usable model so often
    bulk_share: int = 4  # of reprocessing, one of so many parts of a batch at once: a live image waits for no more
    threads: int = field(default_factory=lambda: max(2, min(8, os.cpu_count() or 2)))  # that read images
    cache_dir: Path | None = None  # of converted models; None: the user's cache folder
    maps: bool = True  # whether the maps of flagged images are stored


class _InHand(NamedTuple):
    job: jobs.Job
    read: Future[Read]
    model: Model


class Worker:
    """One worker process. Any number of them share the queue."""

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        bundle: Path,
        policy: triage.TriagePolicy,
        config: WorkerConfig | None = None,
    ) -> None:
        self._database = database
        self._store = store
        self._bundle_path = bundle
        self._policy = policy
        self._config = config or WorkerConfig()
        self.name = self._config.name or f"{socket.gethostname()}:{os.getpid()}:{int(time.time())}"
        self._stop = threading.Event()
        self._model: Model | None = None
        chosen = self._config
        self._bulk = Bulk(
            database, self.name, self._model_named, batch_size=max(1, chosen.batch_size // chosen.bulk_share),
            lease_s=chosen.lease_s, max_attempts=chosen.max_attempts, backoff_s=chosen.backoff_s,
        )  # fmt: skip

    def run(self, stop: threading.Event, on_ready: Callable[[], None] = lambda: None) -> None:
        """Work until `stop` is set and the jobs in hand are done; `on_ready`: the model was looked for."""
        self._stop = stop
        config = self._config
        with (
            Pulse(self._database, self.name, lease_s=config.lease_s) as self._pulse,
            Wakeup(self._database, jobs.CHANNEL) as wakeup,
            ThreadPoolExecutor(config.threads, thread_name_prefix="read") as pool,
            MapKeeper(self._database, self._store) as self._maps,
        ):
            self._load()
            on_ready()
            self._work(pool, wakeup)
        log.info("worker stopped", worker=self.name)

    def _work(self, pool: ThreadPoolExecutor, wakeup: Wakeup) -> None:
        ahead: list[_InHand] = []
        while ahead or not self._stop.is_set():
            model = self._model or self._reload()
            if model is None:
                if self._stop.is_set():
                    return  # what is in hand is taken over when its lease ends
                continue
            batch = ahead or self._claim(model, pool)
            if not batch:
                wakeup.wait(0 if self._stop.is_set() else min(self._config.poll_s, self._bulk.wait_s))
                continue
            ahead = self._claim(model, pool, beside=batch)
            if ahead and is_bulk(batch[0].job) and not is_bulk(ahead[0].job):
                batch, ahead = ahead, batch  # live images first
            self._finish(batch[0].model, batch)
            self._hold(ahead)

    # the model

    def _load(self) -> None:
        try:
            bundle = load_bundle(self._bundle_path)
            check_operating_points(self._policy, bundle)
            outlier = load_outlier(bundle)
            engine = load_engine(bundle, self._config.device, self._config.cache_dir)
        except Exception as error:  # a broken model must not end the worker: the list says why it is in arrival order
            reason = str(error) if isinstance(error, InvalidBundle) else f"{type(error).__name__}: {error}"
            log.error("no model can be used", reason=reason, expected=isinstance(error, InvalidBundle))
            self._without_model(reason)
            return
        self._model = Model(bundle, engine, outlier)
        self._pulse.tell(
            model=f"{bundle.name} {bundle.version}", weights_sha256=bundle.weights_sha256, engine=engine.name
        )
        log.info("model loaded", model=bundle.name, version=bundle.version, engine=engine.name)

    def _without_model(self, reason: str) -> None:
        self._model = None
        self._pulse.tell(problem=reason)

    def _reload(self) -> Model | None:
        if not self._stop.wait(self._config.reload_s):
            self._load()
        return self._model

    def _model_named(self, ref: ModelRef) -> Model:
        """The model of a reprocessing; raises `InvalidBundle`."""
        model = self._model
        if model is None or (model.bundle.weights_sha256, model.bundle.version) != (ref.weights_sha256, ref.version):
            raise InvalidBundle(f"{ref.name} {ref.version} is not the model of this worker")
        return model

    # a batch

    def _claim(self, model: Model, pool: ThreadPoolExecutor, beside: Sequence[_InHand] = ()) -> list[_InHand]:
        """Take up to a batch of jobs and begin to read their images; nothing once the worker shall stop."""
        config = self._config
        if self._stop.is_set():
            return []
        try:
            with self._database.transaction() as connection:
                claimed = jobs.claim(
                    connection, self.name, config.batch_size, config.lease_s, max_attempts=config.max_attempts
                )
            if not claimed and (taken := self._bulk.claim()) is not None:
                claimed, model = taken
        except Unavailable as error:
            if not beside:
                log.warning("no jobs can be claimed", error=str(error))
            return []
        ahead = [_InHand(job, pool.submit(self._read, job, model.bundle), model) for job in claimed]
        self._hold([*beside, *ahead])
        return ahead

    def _hold(self, taken: Sequence[_InHand]) -> None:
        bulk = frozenset(item.job.job_pk for item in taken if is_bulk(item.job))
        self._pulse.hold(frozenset(item.job.job_pk for item in taken if not is_bulk(item.job)), bulk)

    def _read(self, job: jobs.Job, bundle: Bundle) -> Read:
        return self._patiently("the object store", lambda: read_job(self._store, job, bundle.framed))

    def _finish(self, model: Model, batch: Sequence[_InHand]) -> None:
        """Score a batch and record what came of it; where the engine fails, its jobs are given back."""
        try:
            try:
                result = self._score(model, batch)
            except Unavailable:
                raise
            except Exception as error:
                log.exception("the engine failed", jobs=len(batch))
                reason = f"{type(error).__name__}: {error}"
                self._without_model(reason)
                result = Result(failed=[(item.job, reason) for item in batch])
            record = self._bulk.record if is_bulk(batch[0].job) else self._record
            self._patiently("the database", lambda: record(result))
            self._maps.keep(result.explained)
        except Unavailable:  # only when stopping: the leases run out, and another worker takes over
            log.warning("stopped before a batch was recorded", jobs=len(batch))

    def _score(self, model: Model, batch: Sequence[_InHand]) -> Result:
        result, inputs = Result(), self._inputs(batch)
        read: list[tuple[jobs.Job, Read]] = []
        for job, outcome in inputs:
            if isinstance(outcome, Read):
                read.append((job, outcome))
            elif isinstance(outcome, NotScorable):
                result.not_eligible.append((job, str(outcome)))
            else:  # a damaged or missing object, no memory, a fault of ours: tried again, then shown
                log.error("an image could not be read", sop_uid=job.sop_uid, error=repr(outcome))
                result.failed.append((job, str(outcome) or type(outcome).__name__))
        if not read:
            return result
        begun = time.perf_counter()
        outputs = model.engine.predict(np.stack([image.network_input for _, image in read]))
        each_ms = (time.perf_counter() - begun) * 1000 / len(read)
        each_features = [None] * len(read) if outputs.features is None else outputs.features
        for (job, image), row, features in zip(read, outputs.logits, each_features, strict=True):
            if not np.isfinite(row).all():
                result.not_eligible.append((job, "the model gives no number for this image"))
                continue
            times = {"decode_ms": image.decode_ms, "inference_ms": each_ms}
            found = score(self._policy, model, job, row, features, **times)
            result.scores.append(found)
            result.scored.append(job)
            if self._config.maps:
                result.explained += explain(model.bundle, model.engine.head, found, features, image.frame)
        return result

    def _inputs(self, batch: Sequence[_InHand]) -> Iterator[tuple[jobs.Job, Read | Exception]]:
        """What became of reading each image; raises `Unavailable` when the worker stops while the store is away."""
        for job, read, _ in batch:
            try:
                yield job, read.result()
            except Unavailable:
                raise
            except Exception as error:
                yield job, error

    def _record(self, result: Result) -> None:
        config, ended = self._config, [*result.scored, *(job for job, _ in result.not_eligible)]
        with self._database.transaction() as connection:
            findings.record_scores(connection, result.scores)
            for job, reason in result.not_eligible:
                findings.record_not_eligible(connection, job.instance_pk, reason)
            jobs.done(connection, [job.job_pk for job in ended])
            for job, error in result.failed:
                jobs.fail(connection, job.job_pk, error, max_attempts=config.max_attempts, backoff_s=config.backoff_s)
        with self._database.autocommit() as connection:
            worklist.announce(connection)
        log.info(
            "batch recorded",
            scored=len(result.scores),
            flagged=sum(each.flagged for each in result.scores),
            not_eligible=len(result.not_eligible),
            failed=len(result.failed),
        )

    def _patiently(self, what: str, attempt: Callable[[], T]) -> T:
        """`attempt` until what it needs is back; once the worker shall stop, the error is raised instead."""
        wait = _AWAY_S
        while True:
            try:
                return attempt()
            except Unavailable as error:
                log.warning(f"waiting for {what}", error=str(error))
                self._pulse.headway()
                if self._stop.wait(wait):
                    raise
                wait = min(2 * wait, _AWAY_MAX_S)
