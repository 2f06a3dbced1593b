"""The optimisation loop: films to weights, the same result whether or not it was interrupted.

After each epoch everything that the next one needs (weights, their running average, optimizer, position) is written to
`checkpoint.pt` and renamed into place. Samples and their augmentation depend only on (seed, epoch, place in the epoch).
Under `torchrun` each process takes its share of every batch (`models.parallel`). This module imports torch.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from models.augment import augment, blend
from models.data import BELIEFS, TRAITS, Film, read_film
from models.features import split_head
from models.lesions import LESIONS, draw_lesion
from models.metrics import auroc
from models.networks import build_network, with_outputs
from models.parallel import Team, joined
from models.preprocess import to_input, to_work
from models.recipe import Callback, Progress, TrainConfig
from models.sampling import Lessons, mixed_source_films
from storage.errors import InvalidInput

__all__ = ["Fitted", "fit", "logits_of"]

Floats = npt.NDArray[np.float32]
Batch = tuple[Floats, Floats, Floats]  # images [n, 1, size, size]; targets and their weights [n, columns]
_CLIP = 2.0  # the longest gradient


class Fitted(dict[str, torch.Tensor]):
    """The state dict of the running average of the weights, with a head for the findings alone."""

    seconds: float = 0.0  # of wall time in epochs, those before an interruption too
    first: bool = True  # of the processes that made it: the one that writes


def fit(
    *,
    train: Sequence[Film],
    val: Sequence[Film],
    findings: Sequence[str],
    folder: Path,
    config: TrainConfig,
    tell: Callback,
    taught: Floats | None = None,
    start: torch.nn.Module | None = None,
) -> Fitted:
    """The running average of the weights after all epochs; continues from `folder/checkpoint.pt`.

    `taught` is what the teachers say of the train films, probabilities [films, findings]. `start` is a network of the
    same definition whose weights are begun with.

    Raises:
        InvalidInput: the checkpoint was made with other settings or films.
    """
    with joined() as team, _repeatable(config):
        lessons = Lessons.of(train, findings, config, taught)
        run = _Run(train=train, val=val, findings=findings, lessons=lessons, folder=folder, config=config,
                   tell=tell if team.first else lambda _: None, team=team, start=start)  # fmt: skip
        while run.epoch < config.epochs:
            run.one_epoch()
            if team.first:
                run.save()
        return run.result()


@contextmanager
def _repeatable(config: TrainConfig) -> Iterator[None]:
    """Deterministic kernels, the configured threads and seed; the process has its own back afterwards."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


class _Run:
    """The state of one training run."""

    def __init__(
        self, *, train: Sequence[Film], val: Sequence[Film], findings: Sequence[str], lessons: Lessons, folder: Path,
        config: TrainConfig, tell: Callback, team: Team, start: torch.nn.Module | None,
    ) -> None:  # fmt: skip
        self.config, self.tell, self.folder, self.train, self.team = config, tell, folder, train, team
        self.findings, self.lessons = list(findings), lessons
        self.fingerprint = json.dumps([asdict(config), self.findings, team.size, [film.image for film in train]])
        self.definition = with_outputs(config.network, lessons.targets.shape[1])
        self.net = build_network(self.definition).to(team.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if start is not None:
            _begin(self.net, start)
        self.average = {name: value.clone() for name, value in self.net.state_dict().items()}
        self.optimizer = torch.optim.AdamW(self.net.parameters(), weight_decay=config.weight_decay)
        self.epoch, self.history = 0, list[dict[str, float]]()
        folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = folder / "checkpoint.pt"
        if self.checkpoint.exists():
            self._resume(torch.load(self.checkpoint, map_location=team.device, weights_only=True))
        self.learner = team.wrap(self.net)
        self.work = [to_work(read_film(film)) for film in self._told(train)]
        self.normal = [not film.abnormal for film in train]
        self.val = mixed_source_films(val)
        self.val_work = [to_work(read_film(film)) for film in self.val]

    def _told(self, films: Sequence[Film]) -> Iterator[Film]:
        for place, film in enumerate(films):
            if place % 100 == 0:
                self.tell(Progress(stage="read", step=place, steps=len(films)))
            yield film

    def _resume(self, state: dict[str, Any]) -> None:
        if state["fingerprint"] != self.fingerprint:
            raise InvalidInput(f"{self.checkpoint} was made with other settings or films: choose another folder")
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.epoch, self.history = state["average"], state["epoch"], state["history"]
        torch.set_rng_state(state["rng"].cpu())

    def save(self) -> None:
        """Checkpoint and history, each renamed into place."""
        state = {
            "fingerprint": self.fingerprint, "net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(),
            "average": self.average, "epoch": self.epoch, "history": self.history, "rng": torch.get_rng_state(),
        }  # fmt: skip
        draft = self.checkpoint.with_suffix(".part")
        torch.save(state, draft)
        draft.replace(self.checkpoint)
        draft = self.folder / "history.part"
        draft.write_text(json.dumps(self.history, indent=1))
        draft.replace(self.folder / "history.json")

    def result(self) -> Fitted:
        """The averaged weights; the head's rows for the traits are left behind."""
        net = build_network(self.definition)
        net.load_state_dict(self.average)
        split = split_head(net, self.definition)
        heads = set[int]() if split is None else {value.data_ptr() for value in split.head.state_dict().values()}
        kept = self.lessons.findings
        fitted = Fitted(
            (name, (value[:kept] if value.data_ptr() in heads else value).cpu().clone())
            for name, value in net.state_dict().items()
        )
        fitted.seconds, fitted.first = sum(entry["seconds"] for entry in self.history), self.team.first
        return fitted

    def one_epoch(self) -> None:
        """All batches of the next epoch, then a look at val."""
        config, started = self.config, time.monotonic()
        steps = max(1, config.epoch_films // config.batch)
        rng = np.random.default_rng([config.seed, self.epoch])
        drawn = rng.choice(len(self.train), (steps, config.batch), p=self.lessons.chances)
        self.learner.train()
        losses = list[float]()
        for step, batch in enumerate(self._batches(drawn)):
            losses.append(self._step(batch, self.epoch * steps + step, config.epochs * steps))
            if step % 10 == 0:
                self._say(step, steps, float(np.mean(losses[-50:])))
        self.epoch += 1
        loss, value = float(np.mean(losses)), self._look() if self.team.first else math.nan
        entry = {"epoch": float(self.epoch), "size": float(config.size_at(self.epoch - 1)), "loss": loss}
        self.history.append(entry | {"seconds": round(time.monotonic() - started, 1), "val_auroc": value})
        self._say(steps, steps, loss)

    def _say(self, step: int, steps: int, loss: float) -> None:
        done = self.epoch - (step == steps)
        auroc = self.history[-1]["val_auroc"] if self.history else math.nan
        self.tell(
            Progress(stage="train", step=done * steps + step, steps=self.config.epochs * steps, epoch=done + 1,
                     epochs=self.config.epochs, loss=loss, val_auroc=auroc)
        )  # fmt: skip

    def _batches(self, drawn: npt.NDArray[np.int64]) -> Iterator[Batch]:
        """Augmented batches, made ahead in a second thread (OpenCV and torch both release the GIL)."""
        with ThreadPoolExecutor(1) as pool:
            waiting: deque[Future[Batch]] = deque()
            for step, places in enumerate(drawn):
                waiting.append(pool.submit(self._batch, step, places))
                if len(waiting) > 2:
                    yield waiting.popleft().result()
            for batch in waiting:
                yield batch.result()

    def _batch(self, step: int, places: npt.NDArray[np.int64]) -> Batch:
        """The share of a batch that falls to this process."""
        config, seed = self.config, [self.config.seed, self.epoch, step]
        mine = [(place, i) for place, i in enumerate(places)][self.team.rank :: self.team.size]
        samples = [self._sample(int(i), np.random.default_rng([*seed, place])) for place, i in mine]
        images, targets, weights = (np.stack([sample[part] for sample in samples]) for part in range(3))
        if config.mixup > 0:  # an unknown label adds nothing to a known one
            rng = np.random.default_rng([*seed, config.batch, self.team.rank])
            images, weighed, weights = blend([images, targets * weights, weights], config.mixup, rng)
            targets = np.asarray(weighed / np.maximum(weights, 1e-6), np.float32)
        return images, targets, weights

    def _sample(self, i: int, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        config = self.config
        work, targets, weights = self.work[i], self.lessons.targets[i], self.lessons.weights[i]
        if self.normal[i] and config.drawn > 0 and rng.random() < config.drawn:
            kind = LESIONS[int(rng.integers(len(LESIONS)))]
            work, targets, weights = draw_lesion(work, kind, rng), targets.copy(), weights.copy()
            weights[1 : self.lessons.findings] = 0  # nobody knows what else a drawing may look like
            for name in {"Abnormal", kind} & set(self.findings):
                place = self.findings.index(name)
                targets[place], weights[place] = BELIEFS[1], 1
        return augment(work, config.size_at(self.epoch), rng, alike=config.alike), targets, weights

    def _step(self, batch: Batch, step: int, steps: int) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = _rate(step, steps, self.config.learning_rate)
        device = self.team.device
        images, targets, weights = (torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in batch)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.bf16):
            logits = self.learner(images.to(memory_format=torch.channels_last))
        each = binary_cross_entropy_with_logits(logits.float(), targets, reduction="none") * weights
        kept = self.lessons.findings
        loss = each[:, 0].mean() + _mean(each[:, 1:kept], weights[:, 1:kept])
        if self.config.traits > 0:
            loss = loss + self.config.traits * len(TRAITS) * _mean(each[:, kept:], weights[:, kept:])
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), _CLIP)
        self.optimizer.step()
        keep = min(self.config.ema, (step + 1) / (step + 10))
        for name, value in self.net.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - keep)
            else:
                self.average[name].copy_(value)
        return float(loss.detach())

    def _look(self) -> float:
        net = build_network(self.definition).to(self.team.device)
        net.load_state_dict(self.average)
        inputs = np.stack([to_input(work, self.config.size_at(self.epoch - 1)) for work in self.val_work])
        scores = logits_of(net, inputs, bf16=self.config.bf16)[:, 0]
        return auroc(scores, np.array([film.abnormal for film in self.val]))


def _begin(net: torch.nn.Module, start: torch.nn.Module) -> None:
    """Take the weights over; a head with more outputs (traits) keeps its own for these."""
    known = start.state_dict()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            given = known[name]
            (value if value.dim() == 0 else value[: given.shape[0]]).copy_(given)


def _mean(losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return losses.sum() / weights.sum().clamp(min=1.0)


def logits_of(net: torch.nn.Module, inputs: Floats, *, batch: int = 32, bf16: bool = False) -> Floats:
    """Logits [n, outputs] of inputs [n, 1, size, size], where the network is."""
    device = next(net.parameters()).device
    net.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        parts = [
            net(torch.from_numpy(inputs[i : i + batch]).to(device, memory_format=torch.channels_last)).float().cpu()
            for i in range(0, len(inputs), batch)
        ]
    return np.asarray(torch.cat(parts).numpy(), np.float32)


def _rate(step: int, steps: int, top: float) -> float:
    """One cycle: up linearly in the first tenth, then down along a cosine to nearly nothing."""
    rise = max(1, steps // 10)
    if step < rise:
        return top * (0.05 + 0.95 * step / rise)
    return top * (0.002 + 0.998 * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))))
