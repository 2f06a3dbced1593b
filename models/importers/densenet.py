"""DenseNets in torchvision's layout, as MONAI's: the same layers in the same order under other names.

torchvision, torchxrayvision and the CheXNet reproductions share one layout (Huang et al., arXiv:1608.06993):

    [module.densenet121.]features.denseblock1.denselayer1.norm1.weight    (before torchvision 0.4: norm.1)
    -> features.denseblock1.denselayer1.layers.norm1.weight
    [module.densenet121.]classifier.weight                                (with a sigmoid behind it: classifier.0)
    -> class_layers.out.weight

Sizes are read off the weights, so that 121, 169, 201 and others are one case. The tests hold converted networks
against the originals.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from storage.errors import InvalidBundle

if TYPE_CHECKING:
    import torch

    State = Mapping[str, torch.Tensor]

__all__ = ["DenseNet", "convert"]

_FIRST = "features.conv0.weight"
_LAYER = re.compile(r"(features\.denseblock\d+\.denselayer\d+)\.(norm|conv)\.?([12])\.(\w+)")
_PLACE = re.compile(r"features\.denseblock(\d+)\.denselayer(\d+)\.conv\.?2\.weight")
_HEAD = re.compile(r"classifier(?:\.\d+)?\.(weight|bias)")
_COUNTER = ".num_batches_tracked"  # of training; old checkpoints have none


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseNet:
    """A converted network."""

    definition: dict[str, Any]  # MONAI's network_def
    state: dict[str, torch.Tensor]

    @property
    def channels(self) -> int:
        """Of the input."""
        return int(self.definition["in_channels"])

    @property
    def outputs(self) -> int:
        """Of the head."""
        return int(self.definition["out_channels"])

    def with_outputs(self, chosen: Sequence[int]) -> DenseNet:
        """The same network with only these outputs, in this order."""
        state = dict(self.state)
        for name in ("class_layers.out.weight", "class_layers.out.bias"):
            state[name] = state[name][list(chosen)].clone()
        return DenseNet(definition={**self.definition, "out_channels": len(chosen)}, state=state)


def convert(given: State) -> DenseNet:
    """MONAI's DenseNet with these weights.

    Raises:
        InvalidBundle: they are not those of a DenseNet in this layout.
    """
    state = _without_prefix(given)
    blocks = dict[int, int]()
    for name in state:
        if place := _PLACE.fullmatch(name):
            blocks[int(place[1])] = blocks.get(int(place[1]), 0) + 1
    renamed = {_renamed(name): value for name, value in state.items()}
    if sorted(blocks) != list(range(1, len(blocks) + 1)) or not blocks:
        raise InvalidBundle("the weights are not those of a DenseNet: its blocks are not numbered from 1")
    try:
        first, head = renamed["features.conv0.weight"], renamed["class_layers.out.weight"]
        narrow = renamed["features.denseblock1.denselayer1.layers.conv1.weight"]
        growth = renamed["features.denseblock1.denselayer1.layers.conv2.weight"].shape[0]
    except KeyError as error:
        raise InvalidBundle(f"the weights are not those of a DenseNet classifier: {error} is missing") from error
    if head.ndim != 2 or first.ndim != 4 or first.shape[1] not in (1, 3):
        raise InvalidBundle("the weights are not those of a classifier of images with 1 or 3 channels")
    definition = {
        "_target_": "monai.networks.nets.DenseNet", "spatial_dims": 2, "in_channels": int(first.shape[1]),
        "out_channels": int(head.shape[0]), "init_features": int(first.shape[0]), "growth_rate": int(growth),
        "block_config": [blocks[number] for number in sorted(blocks)],
        "bn_size": int(narrow.shape[0]) // int(growth),
    }  # fmt: skip
    return DenseNet(definition=definition, state={name: value.float() for name, value in renamed.items()})


def _without_prefix(given: State) -> dict[str, torch.Tensor]:
    """Names from `features` and `classifier` on: DataParallel, Lightning and wrapping classes put theirs before."""
    prefix = next((name.removesuffix(_FIRST) for name in given if name.endswith(_FIRST)), None)
    if prefix is None:
        raise InvalidBundle(f"the weights are not those of a DenseNet in torchvision's layout: no {_FIRST}")
    strange = [name for name in given if not name.startswith((prefix + "features.", prefix + "classifier."))]
    if strange:
        raise InvalidBundle(f"the weights are not those of a DenseNet alone: there is {strange[0]!r}, too")
    return {name.removeprefix(prefix): value for name, value in given.items() if not name.endswith(_COUNTER)}


def _renamed(name: str) -> str:
    if layer := _LAYER.fullmatch(name):
        return f"{layer[1]}.layers.{layer[2]}{layer[3]}.{layer[4]}"
    if head := _HEAD.fullmatch(name):
        return f"class_layers.out.{head[1]}"
    return name
