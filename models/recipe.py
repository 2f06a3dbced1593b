"""What decides a training run: network, schedule, sampling of the films, and the steps that can be switched on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

__all__ = ["FOLDS", "RECIPES", "Callback", "Progress", "TrainConfig"]

FOLDS = 4  # parts of the training films of which a run may leave one out, to be judged on it


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

    recipe: str = "all"  # the name in `RECIPES` that these settings began with
    network: dict[str, Any] = field(default_factory=_network)  # without the head's size
    stages: tuple[tuple[int, int], ...] = ((6, 128),)  # (epochs, px); the last size is the bundle's
    epoch_films: int = 3840  # drawn for one epoch, by the shares below
    batch: int = 32
    learning_rate: float = 1.5e-3  # the highest of the cycle
    weight_decay: float = 0.05
    ema: float = 0.995  # weight of the past in the running average of the weights, a step
    min_positives: int = 30  # a finding with fewer training films is not learnt
    one_class_weight: float = 0.5  # Abnormal's loss on a source without normals: there it teaches the source
    # shares of an epoch by (source, abnormal); what is not named shares `other_share` evenly by film
    shares: tuple[tuple[str, int, float], ...] = (("nih", 0, 0.18), ("nih", 1, 0.30), ("rsna_normal", 0, 0.24))
    other_share: float = 0.28
    soften: bool = True  # labels by how far they are believed
    alike: bool = True  # exposure, blur, noise, JPEG and boxes as augmentation: sources must not tell themselves
    mixup: float = 0.3  # Beta(mixup, mixup): two films and their labels blended; 0: not
    traits: float = 0.3  # weight of the helper outputs view, sex and age, which the bundle does not keep; 0: none
    drawn: float = 0.2  # share of the normal films that get a lesion drawn by code, and its label
    fold: int | None = None  # 0 to FOLDS - 1: this part of the films of mixed sources is left out, to judge on
    start: str = ""  # SHA-256 of the weights to begin with; '': random ones
    teachers: tuple[str, ...] = ()  # SHA-256 of the weights whose mean answer is learnt
    distil: float = 0.7  # weight of the teachers' answer against the labels, where there are teachers
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


# The steps of the card's ablation table. `sources` is `plain` and what makes the sources alike (sampling, appearance,
# believed labels), `first` more epochs of it (version 0.1.0 of the default model); `mixup`, `traits` and `drawn` add
# one step each to `sources`, `member` is `traits` for as long as `first`; `distilled` is for a run with teachers,
# `tuned` for one that begins with one of them.
_PLAIN = TrainConfig(
    recipe="plain", shares=(), other_share=1.0, one_class_weight=1.0, soften=False, alike=False, mixup=0, traits=0,
    drawn=0,
)  # fmt: skip
_SOURCES = TrainConfig(recipe="sources", mixup=0, traits=0, drawn=0)
RECIPES: Mapping[str, TrainConfig] = MappingProxyType({
    "plain": _PLAIN,
    "sources": _SOURCES,
    "first": replace(_SOURCES, recipe="first", stages=((12, 128), (18, 192)), ema=0.998),
    "member": replace(_SOURCES, recipe="member", stages=((12, 128), (18, 192)), ema=0.998, traits=TrainConfig().traits),
    "mixup": replace(_SOURCES, recipe="mixup", mixup=TrainConfig().mixup),
    "traits": replace(_SOURCES, recipe="traits", traits=TrainConfig().traits),
    "drawn": replace(_SOURCES, recipe="drawn", drawn=TrainConfig().drawn),
    "all": TrainConfig(),
    "distilled": replace(_SOURCES, recipe="distilled", mixup=0.2, stages=((7, 128), (2, 192))),
    "tuned": replace(_SOURCES, recipe="tuned", mixup=0.2, stages=((2, 192),), learning_rate=5e-4, ema=0.99),
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where the training stands, for whoever draws the bar."""

    stage: str  # 'read', 'teach', 'train', 'calibrate', 'evaluate' or 'done'
    step: int
    steps: int
    epoch: int = 0
    epochs: int = 0
    loss: float = math.nan
    val_auroc: float = math.nan  # of Abnormal on the val films of the sources that have both classes


Callback = Callable[[Progress], None]
