"""A checkpoint file of torch as weights by name, read with `weights_only`: no class in it is ever made, no code run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from storage.errors import InvalidBundle

if TYPE_CHECKING:
    import torch

__all__ = ["Checkpoint", "read_checkpoint"]

_NESTED = ("state_dict", "model_state_dict", "model", "net")
_LABELS = ("labels", "pathologies", "targets", "classes")
_THRESHOLDS = "op_threshs"  # torchxrayvision's operating points stand among the weights
_WAY_OUT = (
    "it holds a whole pickled network, which runs code when it is opened. Open it where you trust it, save its state "
    "dict, and import that: torch.save({'state_dict': network.state_dict(), 'labels': [...]}, 'weights.pt')"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Weights by name, with what the file says of them."""

    state: dict[str, torch.Tensor]
    labels: tuple[str, ...] | None  # of the head, '' for an output that was never trained
    thresholds: tuple[float, ...] | None  # probabilities, NaN where there is none


def read_checkpoint(file: Path) -> Checkpoint:
    """The state dict of a file.

    Raises:
        InvalidBundle: it is none, would have to run code, or holds numbers that are not finite.
    """
    import torch  # noqa: PLC0415 - seconds

    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the broken file leads it into
        words = str(error)
        unsafe = "Unsupported global" in words or "GLOBAL" in words or "persistent_load" in words
        reason = _WAY_OUT if unsafe else words.splitlines()[0] if words else type(error).__name__
        raise InvalidBundle(f"{file.name} is not a state dict: {reason}") from error
    if not isinstance(content, Mapping):
        raise InvalidBundle(f"{file.name} is not a state dict but a {type(content).__name__}")
    labels = next((content[key] for key in _LABELS if _is_labels(content.get(key))), None)
    state = next((content[key] for key in _NESTED if isinstance(content.get(key), Mapping)), content)
    weights = {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    thresholds = weights.pop(_THRESHOLDS, None)
    if not weights:
        raise InvalidBundle(f"{file.name} is not a state dict: it holds no weights")
    bad = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise InvalidBundle(f"{file.name} has weights that are not finite numbers, first in {bad[0]}")
    return Checkpoint(
        state=weights,
        labels=None if labels is None else tuple(labels),
        thresholds=None if thresholds is None else tuple(thresholds.flatten().tolist()),
    )


def _is_labels(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(one, str) for one in value)
