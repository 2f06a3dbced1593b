"""Body and head of every network that a bundle may ask for: together they are the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.features import pooled, split_head
from models.networks import NETWORKS, build_network

pytest.importorskip("torch")
import torch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

_TINY = {"spatial_dims": 2, "in_channels": 1, "out_channels": 3}
_RESNET = {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [4, 8, 8, 16], "spatial_dims": 2,
           "n_input_channels": 1, "num_classes": 3}  # fmt: skip
DEFINITIONS: dict[str, dict[str, Any]] = {
    "DenseNet": {**_TINY, "init_features": 8, "growth_rate": 4, "block_config": [2, 2]},
    "DenseNet121": _TINY,
    "DenseNet169": _TINY,
    "DenseNet201": _TINY,
    "DenseNet264": _TINY,
    "EfficientNetBN": {"model_name": "efficientnet-b0", "in_channels": 1, "num_classes": 3},
    "ResNet": _RESNET,
    "SEResNet50": {"spatial_dims": 2, "in_channels": 1, "num_classes": 3},
}
CASES = [pytest.param(name, arguments, id=name) for name, arguments in DEFINITIONS.items()] + [
    pytest.param("ResNet", {**_RESNET, "no_max_pool": True}, id="ResNet without its first pooling"),
    pytest.param("ResNet", {**_RESNET, "block": "bottleneck"}, id="ResNet of bottlenecks"),
]


def test_every_network_of_the_allow_list_is_tried_here() -> None:
    assert set(DEFINITIONS) == set(NETWORKS)


def alive(network: torch.nn.Module) -> torch.nn.Module:
    """With norms that know some images: else random weights fade out to nothing in a deep network."""
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the mean over all that was seen
    with torch.inference_mode():
        network.train()(torch.randn(4, 1, 64, 64))
    return network.eval()


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_body_and_head_give_the_networks_own_logits(name: str, arguments: dict[str, Any]) -> None:
    torch.manual_seed(1)
    definition = {"_target_": name, **arguments}
    network = alive(build_network(definition))
    images = torch.randn(2, 1, 64, 64)
    split = split_head(network, definition)
    assert split is not None
    with torch.inference_mode():
        expected = network(images)
        logits, features = split.run(images)
        assert torch.allclose(logits, expected, atol=1e-4)
        by_hand = torch.from_numpy(pooled(features.numpy())) @ split.head.weight.T + split.head.bias
    assert features.ndim == 4
    assert torch.allclose(by_hand, expected, atol=1e-4)
    assert float(expected.std()) > 1e-4  # not all zeros


class Torchvision(torch.nn.Module):
    """The layout of torchvision's DenseNet: batch norm last in `features`; ReLU, pooling and flattening in forward."""

    def __init__(self, classifier: torch.nn.Module) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(torch.nn.Conv2d(1, 6, 3, stride=4), torch.nn.BatchNorm2d(6))
        self.classifier = classifier

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = torch.relu(self.features(images))
        return self.classifier(torch.flatten(torch.nn.functional.adaptive_avg_pool2d(maps, 1), 1))


def test_torchvisions_layout_is_split_before_a_sigmoid() -> None:
    images = torch.randn(2, 1, 32, 32)
    plain = Torchvision(torch.nn.Linear(6, 2)).eval()
    chexnet = Torchvision(torch.nn.Sequential(torch.nn.Linear(6, 2), torch.nn.Sigmoid())).eval()
    with torch.inference_mode():
        for network, logits in ((plain, plain(images)), (chexnet, torch.logit(chexnet(images)))):
            split = split_head(network, {"_target_": "torchvision.models.densenet121"})
            assert split is not None
            assert torch.allclose(split.run(images)[0], logits, atol=1e-5)


@pytest.mark.parametrize(
    ("target", "network"),
    [
        ("somewhere.Else", torch.nn.Linear(2, 2)),
        ("ResNet", torch.nn.Conv2d(1, 2, 3)),
        ("somewhere.Else", Torchvision(torch.nn.Sequential())),
    ],
)
def test_a_network_that_ends_otherwise_has_no_split(target: str, network: torch.nn.Module) -> None:
    assert split_head(network, {"_target_": target}) is None


def test_the_mean_over_places() -> None:
    features = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    assert pooled(features).tolist() == [[5.5, 17.5]]
