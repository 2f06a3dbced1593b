"""The optimisation loop: films to weights, the same result whether or not it was interrupted.

After each epoch everything that the next one needs (weights, their running average, optimizer, position) is written to
`checkpoint.pt` and renamed into place. Samples and their augmentation depend only on (seed, epoch, place in the epoch).
This module imports torch.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from models.augment import augment
from models.data import ABNORMAL, Film, read_film, soft_targets
from models.metrics import auroc
from models.networks import build_network, with_outputs
from models.preprocess import to_input, to_work
from storage.errors import InvalidInput

__all__ = ["Progress", "TrainConfig", "choose_findings", "fit", "logits_of", "mixed_source_films"]

Floats = npt.NDArray[np.float32]


def _network() -> dict[str, Any]:
    return {
        "_target_": "monai.networks.nets.ResNet",
        "block": "basic",
        "layers": [2, 2, 2, 2],
        "block_inplanes": [32, 64, 128, 256],
        "spatial_dims": 2,
        "n_input_channels": 1,
        "conv1_t_size": 7,
        "conv1_t_stride": 2,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that decides the weights, together with the manifest and the library versions."""

    network: dict[str, Any] = field(default_factory=_network)  # without the head's size
    stages: tuple[tuple[int, int], ...] = ((12, 128), (18, 192))  # (epochs, px); the last size is the bundle's
    epoch_films: int = 3840  # drawn for one epoch, by the shares below
    batch: int = 32
    learning_rate: float = 1.5e-3  # the highest of the cycle
    weight_decay: float = 0.05
    ema: float = 0.998  # weight of the past in the running average of the weights, a step
    min_positives: int = 30  # a finding with fewer training films is not learnt
    one_class_weight: float = 0.5  # Abnormal's loss on a source without normals: there it teaches the source
    # shares of an epoch by (source, abnormal); what is not named shares `other_share` evenly by film
    shares: tuple[tuple[str, int, float], ...] = (("nih", 0, 0.18), ("nih", 1, 0.30), ("rsna_normal", 0, 0.24))
    other_share: float = 0.28
    seed: int = 20
    threads: int = 1  # one is nearly as fast as two here, and much faster on a busy machine
    bf16: bool = True

    @property
    def epochs(self) -> int:
        """Epochs in all stages."""
        return sum(epochs for epochs, _ in self.stages)

    @property
    def size(self) -> int:
        """The network's input size, px."""
        return self.stages[-1][1]

    def with_epochs(self, epochs: int) -> TrainConfig:
        """The same settings with this many epochs (at least one), shared among the stages as before."""
        done = 0
        stages = list[tuple[int, int]]()
        for place, (_, size) in enumerate(self.stages):
            upto = round(max(1, epochs) * sum(count for count, _ in self.stages[: place + 1]) / self.epochs)
            if upto > done:
                stages.append((upto - done, size))
            done = max(done, upto)
        return replace(self, stages=tuple(stages))

    def size_at(self, epoch: int) -> int:
        """The input size of an epoch (counted from 0), px."""
        for epochs, size in self.stages:
            if epoch < epochs:
                return size
            epoch -= epochs
        return self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where the training stands, for whoever draws the bar."""

    stage: str  # 'read', 'train', 'calibrate', 'evaluate' or 'done'
    step: int
    steps: int
    epoch: int = 0
    epochs: int = 0
    loss: float = math.nan
    val_auroc: float = math.nan  # of Abnormal on the val films of the sources that have both classes


Callback = Callable[[Progress], None]


def choose_findings(films: Sequence[Film], min_positives: int) -> tuple[str, ...]:
    """Abnormal, then the mined findings with enough positive films, most frequent first.

    A finding that only single-class sources carry (tuberculosis, COVID-19) is left out: a network would learn the
    source, not the finding. Such films still count as abnormal.
    """
    counts: dict[str, int] = {}
    mixed = {film.source for film in films if not film.abnormal} & {film.source for film in films if film.abnormal}
    exhaustive = {film.source for film in films if film.source in mixed and film.basis.startswith("NIH")}
    for film in films:
        for name in film.findings:
            counts[name] = counts.get(name, 0) + (film.source in exhaustive)
    kept = [name for name, count in counts.items() if count >= min_positives]
    return (ABNORMAL, *sorted(kept, key=lambda name: (-counts[name], name)))


def fit(
    *,
    train: Sequence[Film],
    val: Sequence[Film],
    findings: Sequence[str],
    folder: Path,
    config: TrainConfig,
    tell: Callback,
) -> dict[str, torch.Tensor]:
    """The running average of the weights after all epochs (a state dict); continues from `folder/checkpoint.pt`.

    Raises:
        InvalidInput: the checkpoint was made with other settings or films.
    """
    with _repeatable(config):
        run = _Run(train=train, val=val, findings=findings, folder=folder, config=config, tell=tell)
        while run.epoch < config.epochs:
            run.one_epoch()
            run.save()
        return run.average


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
        self, *, train: Sequence[Film], val: Sequence[Film], findings: Sequence[str], folder: Path, config: TrainConfig,
        tell: Callback,
    ) -> None:  # fmt: skip
        self.config, self.tell, self.folder, self.train = config, tell, folder, train
        self.fingerprint = json.dumps([asdict(config), list(findings), [film.image for film in train]])
        self.net = build_network(with_outputs(config.network, len(findings)))
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = {name: value.clone() for name, value in self.net.state_dict().items()}
        self.optimizer = torch.optim.AdamW(self.net.parameters(), weight_decay=config.weight_decay)
        self.epoch, self.history = 0, list[dict[str, float]]()
        folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = folder / "checkpoint.pt"
        if self.checkpoint.exists():
            self._resume(torch.load(self.checkpoint, weights_only=True))
        self.work = [to_work(read_film(film)) for film in self._told(train)]
        self.targets = soft_targets(train, findings)
        self.loss_weights = _loss_weights(train, findings, config.one_class_weight)
        self.val = mixed_source_films(val)
        self.val_work = [to_work(read_film(film)) for film in self.val]
        self.chances = _chances(train, config)

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
        torch.set_rng_state(state["rng"])

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

    def one_epoch(self) -> None:
        """All batches of the next epoch, then a look at val."""
        config, started = self.config, time.monotonic()
        steps = max(1, config.epoch_films // config.batch)
        rng = np.random.default_rng([config.seed, self.epoch])
        drawn = rng.choice(len(self.train), (steps, config.batch), p=self.chances)
        self.net.train()
        losses = list[float]()
        for step, (images, places) in enumerate(self._batches(drawn)):
            losses.append(self._step(images, places, self.epoch * steps + step, config.epochs * steps))
            if step % 10 == 0:
                self._say(step, steps, float(np.mean(losses[-50:])))
        self.epoch += 1
        self._look(float(np.mean(losses)), time.monotonic() - started)
        self._say(steps, steps, float(np.mean(losses)))

    def _say(self, step: int, steps: int, loss: float) -> None:
        done = self.epoch - (step == steps)
        auroc = self.history[-1]["val_auroc"] if self.history else math.nan
        self.tell(
            Progress(stage="train", step=done * steps + step, steps=self.config.epochs * steps, epoch=done + 1,
                     epochs=self.config.epochs, loss=loss, val_auroc=auroc)
        )  # fmt: skip

    def _batches(self, drawn: npt.NDArray[np.int64]) -> Iterator[tuple[Floats, npt.NDArray[np.int64]]]:
        """Augmented batches, made one ahead in a second thread (OpenCV and torch both release the GIL)."""
        with ThreadPoolExecutor(1) as pool:
            waiting: deque[tuple[Future[Floats], npt.NDArray[np.int64]]] = deque()
            for step, places in enumerate(drawn):
                waiting.append((pool.submit(self._batch, step, places), places))
                if len(waiting) > 2:
                    images, drawn_places = waiting.popleft()
                    yield images.result(), drawn_places
            for images, drawn_places in waiting:
                yield images.result(), drawn_places

    def _batch(self, step: int, places: npt.NDArray[np.int64]) -> Floats:
        size = self.config.size_at(self.epoch)
        seeds = [[self.config.seed, self.epoch, step, place] for place in range(len(places))]
        return np.stack(
            [augment(self.work[i], size, np.random.default_rng(s)) for i, s in zip(places, seeds, strict=True)]
        )

    def _step(self, images: Floats, places: npt.NDArray[np.int64], step: int, steps: int) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = _rate(step, steps, self.config.learning_rate)
        targets = torch.from_numpy(self.targets[places])
        weights = torch.from_numpy(self.loss_weights[places])
        batch = torch.from_numpy(images).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16):
            logits = self.net(batch)
        each = binary_cross_entropy_with_logits(logits.float(), targets.nan_to_num(0), reduction="none") * weights
        loss = each[:, 0].mean() + each[:, 1:].sum() / max(1.0, float(weights[:, 1:].sum()))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 2.0)
        self.optimizer.step()
        keep = min(self.config.ema, (step + 1) / (step + 10))
        for name, value in self.net.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - keep)
            else:
                self.average[name].copy_(value)
        return float(loss.detach())

    def _look(self, loss: float, seconds: float) -> None:
        net = build_network(with_outputs(self.config.network, self.targets.shape[1]))
        net.load_state_dict(self.average)
        size = self.config.size_at(self.epoch - 1)
        inputs = np.stack([to_input(work, size) for work in self.val_work])
        scores = logits_of(net, inputs, bf16=self.config.bf16)[:, 0]
        value = auroc(scores, np.array([film.abnormal for film in self.val]))
        entry = {"epoch": float(self.epoch), "size": float(size), "loss": loss, "seconds": round(seconds, 1)}
        self.history.append(entry | {"val_auroc": value})


def mixed_source_films(films: Sequence[Film]) -> list[Film]:
    """The films of sources that have both classes; all films where no source has.

    On the others Abnormal is known from the source, so a figure or a threshold would look better than it is.
    """
    normal, abnormal = ({film.source for film in films if film.abnormal == label} for label in (0, 1))
    return [film for film in films if film.source in normal & abnormal] or list(films)


def logits_of(net: torch.nn.Module, inputs: Floats, *, batch: int = 32, bf16: bool = False) -> Floats:
    """Logits [n, findings] of inputs [n, 1, size, size]."""
    net.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        parts = [
            net(torch.from_numpy(inputs[i : i + batch]).to(memory_format=torch.channels_last)).float().numpy()
            for i in range(0, len(inputs), batch)
        ]
    return np.concatenate(parts)


def _rate(step: int, steps: int, top: float) -> float:
    """One cycle: up linearly in the first tenth, then down along a cosine to nearly nothing."""
    rise = max(1, steps // 10)
    if step < rise:
        return top * (0.05 + 0.95 * step / rise)
    return top * (0.002 + 0.998 * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))))


def _chances(films: Sequence[Film], config: TrainConfig) -> npt.NDArray[np.float64]:
    """How likely each film is drawn, [films], summing to 1."""
    chances = np.zeros(len(films))
    named = {(source, abnormal): share for source, abnormal, share in config.shares}
    keys = [(film.source, film.abnormal) for film in films]
    for key in set(keys):
        here = np.array([k == key for k in keys])
        if key in named:
            chances[here] = named[key] / here.sum()
    rest = np.array([key not in named for key in keys])
    if rest.any():
        chances[rest] = config.other_share / rest.sum()
    return np.asarray(chances / chances.sum())


def _loss_weights(films: Sequence[Film], findings: Sequence[str], one_class: float) -> Floats:
    """[films, findings]: 0 where nobody looked; Abnormal counts less on a source that has abnormal films only."""
    weights = np.isfinite(soft_targets(films, findings)).astype(np.float32)
    normals = {film.source for film in films if not film.abnormal}
    weights[:, 0] = [1.0 if film.source in normals else one_class for film in films]
    return weights
