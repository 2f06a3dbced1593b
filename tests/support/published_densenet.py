"""DenseNet as published (Huang et al. 2017, arXiv:1608.06993), with torchvision's names, for tests without torchvision.

Layers (batch norm, ReLU, 1x1 convolution to four times the growth rate, batch norm, ReLU, 3x3 convolution), their
outputs concatenated, transitions that halve channels and places, a head over globally averaged ReLU features.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

__all__ = ["PublishedDenseNet", "spread"]


class _Layer(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        narrow = self.conv1(functional.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(functional.relu(self.norm2(narrow)))], dim=1)


class _Transition(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(channels), nn.Conv2d(channels, channels // 2, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.avg_pool2d(self.conv(functional.relu(self.norm(x))), 2)


class PublishedDenseNet(nn.Module):
    """`classifier` gives logits."""

    def __init__(
        self, outputs: int, *, channels: int, blocks: Sequence[int] = (2, 3), growth: int = 4, first: int = 8
    ) -> None:
        super().__init__()
        steps: OrderedDict[str, nn.Module] = OrderedDict()
        steps["conv0"] = nn.Conv2d(channels, first, 7, stride=2, padding=3, bias=False)
        steps["norm0"], steps["relu0"] = nn.BatchNorm2d(first), nn.ReLU()
        steps["pool0"] = nn.MaxPool2d(3, stride=2, padding=1)
        width = first
        for number, layers in enumerate(blocks, start=1):
            block = OrderedDict[str, nn.Module]()
            for layer in range(1, layers + 1):
                block[f"denselayer{layer}"] = _Layer(width, growth)
                width += growth
            steps[f"denseblock{number}"] = nn.Sequential(block)
            if number < len(blocks):
                steps[f"transition{number}"] = _Transition(width)
                width //= 2
        steps["norm5"] = nn.BatchNorm2d(width)
        self.features = nn.Sequential(steps)
        self.classifier = nn.Linear(width, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = functional.relu(self.features(x)).mean((2, 3))
        return self.classifier(seen)


def spread(network: nn.Module, seed: int = 1) -> nn.Module:
    """Random running statistics and affine parameters, so that a norm in the wrong place shows; evaluation mode."""
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.weight, 0.5, 1.5),
                    (module.bias, -0.3, 0.3),
                    (module.running_mean, -0.3, 0.3),
                    (module.running_var, 0.5, 2.0),
                ):
                    tensor.copy_(torch.rand(tensor.shape, generator=drawn) * (high - low) + low)
    return network.eval()
