"""The last feature map of a network, and the linear head that turns its mean over places into logits.

Every network of the allow-list ends alike: feature map, global average pooling, one linear layer. So a logit is a sum
over places of head weights times features; maps (`models.maps`) and the distance from known films (`models.outlier`)
need nothing else than that feature map, at no further pass through the network.

torch is imported by `split_head` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

__all__ = ["Head", "Outputs", "Split", "pooled", "split_head"]

Floats = npt.NDArray[np.float32]

# name of the class -> its parts in the order of their work up to the pooling, and the linear layer after it
_RESNET = (("conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3", "layer4"), "fc")
_DENSENET = (("features", "class_layers.relu"), "class_layers.out")
_EFFICIENTNET = (
    ("_conv_stem_padding", "_conv_stem", "_bn0", "_swish", "_blocks",
     "_conv_head_padding", "_conv_head", "_bn1", "_swish"),
    "_fc",
)  # fmt: skip
_SENET = (("layer0", "layer1", "layer2", "layer3", "layer4"), "last_linear")
_PARTS = {
    "ResNet": _RESNET,
    "DenseNet": _DENSENET,
    "DenseNet121": _DENSENET,
    "DenseNet169": _DENSENET,
    "DenseNet201": _DENSENET,
    "DenseNet264": _DENSENET,
    "EfficientNetBN": _EFFICIENTNET,
    "SEResNet50": _SENET,
}


class Outputs(NamedTuple):
    """What a network says of a batch of n images."""

    logits: Floats  # [n, outputs]
    features: Floats | None  # [n, c, h, w], the input of the global average pooling; None: the network has none


class Head(NamedTuple):
    """The linear layer behind the pooling: logits = weights @ mean of the features + bias."""

    weights: Floats  # [outputs, c]
    bias: Floats  # [outputs]


@dataclass(frozen=True, slots=True)
class Split:
    """A network as body and head; the parts share their weights with the network that they are of."""

    body: torch.nn.Module  # images [n, channels, size, size] -> features [n, c, h, w]
    head: torch.nn.Linear  # mean over places [n, c] -> logits [n, outputs]

    def run(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [n, outputs] and features [n, c, h, w]; in evaluation mode the logits are the network's own."""
        features = self.body(images)
        return self.head(features.mean((2, 3))), features

    def numbers(self) -> Head:
        """The head's weights as float32 arrays."""
        weights = self.head.weight.detach().float().cpu().numpy()
        bias: torch.Tensor | None = self.head.bias
        numbers = np.zeros(len(weights)) if bias is None else bias.detach().float().cpu().numpy()
        return Head(np.array(weights, np.float32), np.array(numbers, np.float32))


def split_head(network: torch.nn.Module, definition: Mapping[str, Any]) -> Split | None:
    """Body and linear head of a network built from `definition`; None where it does not end in such a head.

    Beside the networks of the allow-list, those with torchvision's layout of a DenseNet (`features`, then `classifier`:
    torchvision itself, torchxrayvision, CheXNet's with a sigmoid behind its linear layer) are told by their parts.
    """
    import torch  # noqa: PLC0415 - a worker on OpenVINO imports this module and never calls this

    parts = _PARTS.get(str(definition.get("_target_", "")).rpartition(".")[2])
    try:
        if parts is None:
            head = network.get_submodule("classifier")
            body = [network.get_submodule("features"), torch.nn.ReLU()]
            head = head[0] if isinstance(head, torch.nn.Sequential) else head
        else:
            body = [network.get_submodule(step) for step in parts[0] if step != "maxpool" or not _unpooled(network)]
            head = network.get_submodule(parts[1])
    except (AttributeError, IndexError):  # another kind of network, or a headless one
        return None
    return Split(torch.nn.Sequential(*body), head) if isinstance(head, torch.nn.Linear) else None


def _unpooled(network: torch.nn.Module) -> bool:
    return bool(getattr(network, "no_max_pool", False))  # MONAI's ResNet


def pooled(features: Floats) -> Floats:
    """The mean over places [n, c] of features [n, c, h, w]."""
    return np.asarray(features.mean((2, 3), dtype=np.float32))
