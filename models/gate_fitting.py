"""`sangloc gate train`: the input gate from a manifest in some minutes on one core. This module imports torch.

Split `train` and half of the children fit the weights; split `val` and a quarter of the children choose thresholds.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.bundle import METADATA, WEIGHTS
from models.description import describe, write_json
from models.gate import ARRAYS, OUTPUTS, SIZE, Gatekeeper, Thresholds, load_gate, small, square, standard
from models.gate_views import (
    Subject,
    View,
    drawings,
    good_view,
    of_split,
    other_view,
    read_subjects,
    spoiled_view,
    training_view,
)
from models.networks import build_network, with_outputs
from models.phantom import ABNORMALITIES, chest
from models.plainnet import fold
from storage.errors import InvalidInput

__all__ = ["GateConfig", "choose_thresholds", "train_gate"]

Floats = npt.NDArray[np.float32]
Tell = Callable[[str, int, int], None]  # stage, step, steps

_REFUSED = 1 / 500  # of the good films of split val, by each of the gate's reasons
_GOOD_VIEWS = 4  # of each film of split val, for the thresholds
_SURE = 0.95  # at least, before a film is turned or inverted
_ROOM = 0.5  # logits that a threshold stands off the val films: there are only some hundred
_COMPONENTS = 40
_SIDE = 192  # px; longest side of the films that wait in memory
_PHANTOMS = 0.04  # of the adults' views: the demo's phantoms must pass
_USE = "Research use. Not a medical device. Keeps from a model for frontal chest films of adults what it does not know."


def _network() -> dict[str, Any]:
    return {
        "_target_": "monai.networks.nets.ResNet",
        "block": "basic",
        "layers": [1, 1, 1, 1],
        "block_inplanes": [16, 24, 48, 96],
        "spatial_dims": 2,
        "n_input_channels": 1,
        "conv1_t_size": 5,
        "conv1_t_stride": 2,
        "bias_downsample": False,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """How the gate is trained."""

    network: dict[str, Any] = field(default_factory=_network)
    steps: int = 1600
    batch: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.02
    shares: tuple[float, float, float, float] = (0.5, 0.18, 0.2, 0.12)  # adults, children, drawings, films taken apart
    drawings: int = 2100  # images drawn once, then moved and exposed anew
    phantoms: int = 150
    ema: float = 0.995
    seed: int = 1
    threads: int = 1


def train_gate(
    manifest: Path, out: Path, config: GateConfig | None = None, *, tell: Tell = lambda *_: None, version: str = "0.1.0"
) -> Path:
    """Train on the manifest and return the folder of the bundle, `out/bundle`.

    Raises:
        InvalidInput: the manifest or an image cannot be used, or it has no adults or no children.
    """
    config, subjects = config or GateConfig(), read_subjects(manifest)
    adults, children = of_split(subjects, child=False, split="train"), of_split(subjects, child=True, split="fit")
    if not adults or not children:
        raise InvalidInput(f"{manifest} needs adults in split train and children in split pediatric")
    films = [_told(one.read(_SIDE), "read", place, len(adults), tell) for place, one in enumerate(adults)]
    young = [one.read(_SIDE) for one in children]
    drawn = [_phantom(number) for number in range(config.phantoms)]
    state = _fit(_Source(adults, films, young, drawn, config), config, tell)
    folder = out / "bundle"
    arrays = fold({name: value.numpy() for name, value in state.items()}) | _usual([*films, *drawn])
    _write(folder, state, arrays, config, subjects=[*adults, *children], version=version)
    choose_thresholds(folder, subjects, tell)
    return folder


class _Source:
    """Training views by number: the same number gives the same view."""

    def __init__(
        self, adults: Sequence[Subject], films: Sequence[npt.NDArray[np.uint8]],
        young: Sequence[npt.NDArray[np.uint8]], drawn: Sequence[npt.NDArray[np.uint8]], config: GateConfig,
    ) -> None:  # fmt: skip
        counts = {one.source: 0 for one in adults}
        for one in adults:
            counts[one.source] += 1
        weights = np.array([counts[one.source] ** -0.5 for one in adults])
        phantoms = np.full(len(drawn), _PHANTOMS * weights.sum() / max(len(drawn), 1))
        self._chances = np.concatenate([weights, phantoms]) / (weights.sum() + phantoms.sum())
        self._films, self._young, self._config = [*films, *drawn], young, config
        self._drawn = [image for _, image in drawings(config.drawings, config.seed)]

    def view(self, number: int) -> View:
        rng = np.random.default_rng([self._config.seed, 1, number])
        kind = int(rng.choice(4, p=self._config.shares))
        if kind == 1:
            return training_view(self._young[int(rng.integers(len(self._young)))], child=1.0, rng=rng)
        if kind == 2:
            return other_view(self._drawn[int(rng.integers(len(self._drawn)))], rng)
        film = self._films[int(rng.choice(len(self._films), p=self._chances))]
        return training_view(film, child=0.0, rng=rng) if kind == 0 else spoiled_view(film, rng)


def _fit(source: _Source, config: GateConfig, tell: Tell) -> dict[str, torch.Tensor]:
    """The running average of the weights after all steps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            net = build_network(with_outputs(config.network, len(OUTPUTS)))
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            mean = torch.optim.swa_utils.get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
            average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=mean, use_buffers=True)
            _steps(net, average, source, config, tell)
    finally:
        torch.set_num_threads(threads)
    state: dict[str, torch.Tensor] = average.module.state_dict()
    return state


def _steps(net: torch.nn.Module, average: Any, source: _Source, config: GateConfig, tell: Tell) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    rates = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.2
    )
    net.train()
    for step in range(config.steps):
        views = [source.view(step * config.batch + place) for place in range(config.batch)]
        images = torch.from_numpy(np.stack([standard(one.plain) for one in views])[:, np.newaxis])
        loss = _loss(net(images.to(memory_format=torch.channels_last)), views)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rates.step()
        average.update_parameters(net)
        if step % 20 == 0:
            tell(f"train, loss {float(loss.detach()):.3f}", step, config.steps)


def _loss(logits: torch.Tensor, views: Sequence[View]) -> torch.Tensor:
    """Cross entropy of the turn and of each other output, over the views of which it is known."""
    turned = torch.tensor([one.turned for one in views])
    labels = torch.tensor([one.labels for one in views], dtype=torch.float32)
    known = labels.isfinite()
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 4:], labels.nan_to_num(), reduction="none")
    yes_or_no = (each * known).sum(0) / known.sum(0).clamp(min=1)
    return torch.nn.functional.cross_entropy(logits[:, :4], turned, ignore_index=-1) + yes_or_no.sum()


def _phantom(number: int) -> npt.NDArray[np.uint8]:
    """A drawn chest film as the demo sends it, whatever its abnormality: [256, 224]."""
    film = chest(5000 + number, ABNORMALITIES[number % len(ABNORMALITIES)], rows=256, columns=224)
    return np.asarray(film >> 4, np.uint8)


def _usual(films: Sequence[npt.NDArray[np.uint8]]) -> dict[str, Floats]:
    """Mean and principal components of chest films as they should be, each also as its mirror image."""
    squares = [square(film) for film in films]
    table = np.stack([small(np.ascontiguousarray(view)) for plain in squares for view in (plain, plain[:, ::-1])])
    mean = table.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov((table - mean).T))
    components = vectors[:, np.argsort(values)[::-1][:_COMPONENTS]].T
    return {"usual.mean": mean.astype(np.float32), "usual.components": components.astype(np.float32)}


def choose_thresholds(folder: Path, subjects: Sequence[Subject], tell: Tell = lambda *_: None) -> Thresholds:
    """Set the gate's thresholds by the adults of split `val`, each seen in some good views, and write them.

    For each reason at most one good view in 500 is refused; what would be refused less often by chance alone is
    refused at 0.5. Nothing but a certainty of 0.95, and more than any good view ever gave, turns or inverts a film.
    """
    gate, val = load_gate(folder), of_split(subjects, child=False, split="val")
    if not val:
        raise InvalidInput("the manifest has no adults in split val, which choose the thresholds")
    chances: dict[str, list[float]] = {}
    wrong = [0.5]
    for place, one in enumerate(val):
        film = _told(one.read(), "choose thresholds", place, len(val), tell)
        for number in range(_GOOD_VIEWS):
            rng = np.random.default_rng([9, place, number])
            verdict = gate.look(good_view(film, rng) if number else film)
            for name, value in verdict.chances.items():
                chances.setdefault(name, []).append(value)
            if verdict.turned or verdict.inverted:
                wrong.append(verdict.chances["sure"])
                chances["sure"][-1] = 1 - verdict.chances["sure"]
    thresholds = Thresholds(
        upright=min(0.5, _beyond([-value for value in chances["sure"]], sign=-1)),
        sure=max(_SURE, min(0.99, max(wrong) + 0.02)),
        cropped=max(0.5, _shifted(_beyond(chances["cropped"]))),
        not_chest=max(0.5, _shifted(_beyond(chances["not_chest"]))),
        child=max(0.5, _shifted(_beyond(chances["child"]))),
        strange=_beyond(chances["strange"]) + 0.01,
    )
    _amend(folder, gate, thresholds, val)
    return thresholds


def _beyond(values: Sequence[float], sign: int = 1) -> float:
    """The value that one good view in 500 passes."""
    return sign * float(np.quantile(values, 1 - _REFUSED))


def _shifted(chance: float) -> float:
    """The probability `_ROOM` logits further up."""
    inside = min(max(chance, 1e-6), 1 - 1e-6)
    return 1 / (1 + (1 - inside) / inside * float(np.exp(-_ROOM)))


def _told(value: Any, stage: str, place: int, count: int, tell: Tell) -> Any:
    if place % 100 == 0:
        tell(stage, place, count)
    return value


def _write(
    folder: Path, state: dict[str, torch.Tensor], arrays: dict[str, Floats], config: GateConfig,
    *, subjects: Sequence[Subject], version: str,
) -> None:  # fmt: skip
    """A MONAI bundle, with the arrays that run beside the state dict and thresholds that refuse everything."""
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("configs", "models"):
        (folder / part).mkdir(parents=True)
    torch.save({name: value.contiguous() for name, value in state.items()}, folder / WEIGHTS)
    packed = io.BytesIO()
    half: dict[str, Any] = {name: value.astype(np.float16) for name, value in arrays.items()}
    np.savez_compressed(packed, **half)
    (folder / ARRAYS).write_bytes(packed.getvalue())
    inference = {"imports": ["$import torch"], "network_def": with_outputs(config.network, len(OUTPUTS)),
                 "network": "$@network_def"}  # fmt: skip
    (folder / "configs" / "inference.json").write_text(json.dumps(inference, indent=1) + "\n", "utf-8")
    training = {
        "config": asdict(config),
        "adults": sum(one.child == 0 for one in subjects),
        "children": sum(one.child == 1 for one in subjects),
        "sources": sorted({one.source for one in subjects}),
        "finished": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
    digests = {name: hashlib.sha256((folder / file).read_bytes()).hexdigest()
               for name, file in (("weights_sha256", WEIGHTS), ("arrays_sha256", ARRAYS))}  # fmt: skip
    never = Thresholds(upright=1, sure=1, cropped=0, not_chest=0, child=0, strange=0)
    gate = {"arrays_sha256": digests["arrays_sha256"], "thresholds": asdict(never)}
    ours = {"kind": "input gate", "weights_sha256": digests["weights_sha256"], "gate": gate, "training": training}
    write_json(folder / METADATA, _metadata(version) | {"sangloc": ours})


def _amend(folder: Path, gate: Gatekeeper, thresholds: Thresholds, val: Sequence[Subject]) -> None:
    metadata = json.loads((folder / METADATA).read_text("utf-8"))
    rounded = {name: round(value, 5) for name, value in asdict(thresholds).items()}
    metadata["sangloc"]["gate"] = {"arrays_sha256": gate.weights_sha256, "thresholds": rounded, "chosen_on": len(val)}
    write_json(folder / METADATA, metadata)


def _metadata(version: str) -> dict[str, Any]:
    return describe(
        OUTPUTS, SIZE, name="input_gate", version=version, made_by="trained by sangloc gate train",
        task="Telling whether an image is an upright frontal chest radiograph of an adult",
        description="Logits of a small MONAI ResNet; preprocessing is models.gate of sangloc",
        intended_use=_USE,
    )  # fmt: skip
