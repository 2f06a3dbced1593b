"""The worker: jobs from the database, images from the store, probabilities from the engine, due times to the worklist.

    claim a batch ─▶ threads: fetch, verify, decode, prepare ─▶ engine ─▶ calibrate ─▶ due time ─▶ one transaction
         ▲ LISTEN wakes it, else it looks every second              while the engine runs, the next batch is read

What is away (database, store) is waited for: the jobs in hand are kept, their attempts do not grow. Which model scores
an image is the roster's affair (`inference.roster`); without any model the worker claims nothing, says why in its sign
of life, and looks again and again. A batch never waits to fill: while one is worked on, the next gathers by itself.
Models in shadow come last (`inference.shadows`).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import structlog

from inference import triage
from inference.bulk import Bulk, is_bulk
from inference.engine import Device
from inference.explaining import MapKeeper, explain
from inference.gate import Gate, features_as_stored, open_gate
from inference.pulse import Pulse
from inference.reading import Read, read_job
from inference.roster import Lineup, Roster, RosterConfig
from inference.scoring import Model, Result, score
from inference.shadows import Shadowed, Shadows, shadow_inputs
from inference.wakeup import Wakeup
from models.preprocess import Frame
from storage import activations, findings, jobs, worklist
from storage.database import Database
from storage.errors import InvalidBundle, NotScorable, Unavailable
from storage.objects import ObjectStore

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
    live: bool = True  # False: images of reprocessings only, and no sign of life that the list would count on
    bulk_share: int = 4  # of reprocessing, one of so many parts of a batch at once: a live image waits for no more
    threads: int = field(default_factory=lambda: max(2, min(8, os.cpu_count() or 2)))  # that read images
    cache_dir: Path | None = None  # of converted models; None: the user's cache folder
    maps: bool = True  # whether the maps of flagged images are stored
    gate: bool = True  # whether the input gate looks at each image first


class _InHand(NamedTuple):
    job: jobs.Job
    read: Future[Read]
    model: Model
    shadowed: list[Shadowed]  # filled while it is read


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
        self._policy = policy
        self._config = config or WorkerConfig()
        self.name = self._config.name or f"{socket.gethostname()}:{os.getpid()}:{int(time.time())}"
        self._stop = threading.Event()
        chosen = self._config
        self._roster = Roster(
            database, store, bundle, policy, on_change=self._tell,
            config=RosterConfig(device=chosen.device, cache_dir=chosen.cache_dir, reload_s=chosen.reload_s),
        )  # fmt: skip
        self._shadows = Shadows(database, policy, chosen.batch_size, self._roster.drop)
        self._bulk = Bulk(
            database, self.name, self._roster.named, self._roster.dismiss, lease_s=chosen.lease_s,
            batch_size=max(1, chosen.batch_size // chosen.bulk_share, chosen.threads // 2),  # and as many ahead
            max_attempts=chosen.max_attempts, backoff_s=chosen.backoff_s,
        )  # fmt: skip

    def run(self, stop: threading.Event, on_ready: Callable[[], None] = lambda: None) -> None:
        """Work until `stop` is set and the jobs in hand are done; `on_ready`: the models were looked for."""
        self._stop = stop
        config = self._config
        with (
            Pulse(self._database, self.name, lease_s=config.lease_s, known=config.live) as self._pulse,
            Wakeup(self._database, jobs.CHANNEL) as wakeup,
            ThreadPoolExecutor(config.threads, thread_name_prefix="read") as pool,
            MapKeeper(self._database, self._store) as self._maps,
            self._roster,
        ):
            self._gate = self._open_gate() if config.gate else None
            self._roster.load()
            on_ready()
            self._work(pool, wakeup)
            while self._shadows.work():
                pass
        log.info("worker stopped", worker=self.name)

    def _work(self, pool: ThreadPoolExecutor, wakeup: Wakeup) -> None:
        ahead: list[_InHand] = []
        while ahead or not self._stop.is_set():
            if not self._roster.lineup.usable:
                if self._stop.wait(self._config.poll_s):
                    return  # what is in hand is taken over when its lease ends
                self._roster.look(self._revision())
                continue
            batch = ahead or self._claim(pool)
            if not batch:
                if not self._shadows.work():
                    wakeup.wait(0 if self._stop.is_set() else min(self._config.poll_s, self._bulk.wait_s))
                continue
            ahead = self._claim(pool, beside=batch)
            if ahead and is_bulk(batch[0].job) and not is_bulk(ahead[0].job):
                batch, ahead = ahead, batch  # live images first
            for each in _by_engine(batch):
                self._finish(each)
            self._hold(ahead)
            if self._shadows.many:
                self._shadows.work()

    def _tell(self, lineup: Lineup) -> None:
        """What runs, and what does not, into the sign of life."""
        used = [model for model in lineup.active.values() if model is not None]
        self._pulse.tell(
            model=_joined(f"{model.bundle.name} {model.bundle.version}" for model in used),
            weights_sha256=_joined(model.bundle.weights_sha256 for model in used),
            engine=_joined(model.engine.name for model in used),
            problem="; ".join(lineup.problems),
        )

    def _revision(self) -> int | None:
        try:
            with self._database.autocommit() as connection:
                return activations.revision(connection)
        except Unavailable:
            return None

    def _open_gate(self) -> Gate | None:
        """The input gate. Without it films are scored as they come: a wrong priority is less than none for anybody."""
        try:
            return open_gate()
        except InvalidBundle as error:
            log.error("the input gate cannot be used, films are scored without it", reason=str(error))
            return None

    # a batch

    def _claim(self, pool: ThreadPoolExecutor, beside: Sequence[_InHand] = ()) -> list[_InHand]:
        """Take up to a batch of jobs and begin to read their images; nothing once the worker shall stop."""
        if self._stop.is_set():
            return []
        try:
            chosen = self._claim_live()
            if not chosen and (taken := self._bulk.claim()) is not None:
                chosen = [(job, self._roster.lineup.at_site(taken.model, job.site)) for job in taken.jobs]
        except Unavailable as error:
            if not beside:
                log.warning("no jobs can be claimed", error=str(error))
            return []
        ahead = [self._begin(job, model, pool) for job, model in chosen]
        self._hold([*beside, *ahead])
        return ahead

    def _claim_live(self) -> list[tuple[jobs.Job, Model]]:
        """Jobs with the model of their site; where a site has none, its jobs wait."""
        config = self._config
        if not config.live:
            self._roster.look(self._revision())
            return []
        with self._database.transaction() as connection:
            claimed = jobs.claim(
                connection, self.name, config.batch_size, config.lease_s, max_attempts=config.max_attempts
            )
            self._roster.look(activations.revision(connection))
            lineup = self._roster.lineup
            without = [job.job_pk for job in claimed if lineup.model_of(job.site) is None]
            if without:
                jobs.postpone(connection, without, config.reload_s)
        return [(job, model) for job in claimed if (model := lineup.model_of(job.site)) is not None]

    def _begin(self, job: jobs.Job, model: Model, pool: ThreadPoolExecutor) -> _InHand:
        shadows = () if is_bulk(job) else self._roster.lineup.shadows_of(job.site)
        shadowed = list[Shadowed]()

        def prepare(film: npt.NDArray[np.uint8]) -> tuple[Frame, npt.NDArray[np.float32]]:
            made = model.bundle.framed(film)
            shadowed.extend(shadow_inputs(job, shadows, film))
            return made

        def read() -> Read:
            return self._patiently("the object store", lambda: read_job(self._store, job, prepare, self._gate))

        return _InHand(job, pool.submit(read), model, shadowed)

    def _hold(self, taken: Sequence[_InHand]) -> None:
        bulk = frozenset(item.job.job_pk for item in taken if is_bulk(item.job))
        self._pulse.hold(frozenset(item.job.job_pk for item in taken if not is_bulk(item.job)), bulk)

    def _finish(self, batch: Sequence[_InHand]) -> None:
        """Score a batch of one engine and record what came of it; where the engine fails, its jobs are given back."""
        try:
            try:
                result = self._score(batch)
            except Unavailable:
                raise
            except Exception as error:
                log.exception("the engine failed", jobs=len(batch))
                reason = f"{type(error).__name__}: {error}"
                self._roster.drop(batch[0].model, reason)
                result = Result(failed=[(item.job, reason) for item in batch])
            record = self._bulk.record if is_bulk(batch[0].job) else self._record
            self._patiently("the database", lambda: record(result))
            self._maps.keep(result.explained)
            scored = {job.job_pk for job in result.scored}
            self._shadows.add([one for item in batch if item.job.job_pk in scored for one in item.shadowed])
        except Unavailable:  # only when stopping: the leases run out, and another worker takes over
            log.warning("stopped before a batch was recorded", jobs=len(batch))

    def _score(self, batch: Sequence[_InHand]) -> Result:
        result, inputs = Result(), self._inputs(batch)
        read: list[tuple[jobs.Job, Model, Read]] = []
        for job, model, outcome in inputs:
            if isinstance(outcome, Read):
                read.append((job, model, outcome))
            elif isinstance(outcome, NotScorable):
                result.not_eligible.append((job, str(outcome)))
            else:  # a damaged or missing object, no memory, a fault of ours: tried again, then shown
                log.error("an image could not be read", sop_uid=job.sop_uid, error=repr(outcome))
                result.failed.append((job, str(outcome) or type(outcome).__name__))
        if not read:
            return result
        begun = time.perf_counter()
        outputs = batch[0].model.engine.predict(np.stack([image.network_input for _, _, image in read]))
        each_ms = (time.perf_counter() - begun) * 1000 / len(read)
        each_features = [None] * len(read) if outputs.features is None else outputs.features
        for (job, model, image), row, features in zip(read, outputs.logits, each_features, strict=True):
            if not np.isfinite(row).all():
                result.not_eligible.append((job, "the model gives no number for this image"))
                continue
            times = {"decode_ms": image.decode_ms, "inference_ms": each_ms}
            found = score(self._policy, model, job, row, features, notes=image.notes, **times)
            if is_bulk(job) and not self._roster.lineup.counts(model, job.site):
                found = replace(found, shadow=True)
            result.scores.append(found)
            result.scored.append(job)
            if self._config.maps and not found.shadow:
                stored = None if features is None else features_as_stored(features, image.turned)
                result.explained += explain(model.bundle, model.engine.head, found, stored, image.frame)
        return result

    def _inputs(self, batch: Sequence[_InHand]) -> Iterator[tuple[jobs.Job, Model, Read | Exception]]:
        """What became of reading each image; raises `Unavailable` when the worker stops while the store is away."""
        for job, read, model, _ in batch:
            try:
                yield job, model, read.result()
            except Unavailable:
                raise
            except Exception as error:
                yield job, model, error

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


def _by_engine(batch: Sequence[_InHand]) -> list[list[_InHand]]:
    """Images of one engine together, in the order of their first."""
    found = dict[int, list[_InHand]]()
    for item in batch:
        found.setdefault(id(item.model.engine), []).append(item)
    return list(found.values())


def _joined(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
