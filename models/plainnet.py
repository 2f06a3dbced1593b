"""A small ResNet of basic blocks run by numpy alone, for what must be ready at once and in any thread.

The batch norms are folded into the convolutions before. At a few million multiplications an image it takes about a
millisecond, needs no engine, no conversion and no warm-up, and holds no state: threads may share it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

__all__ = ["fold", "forward", "needed"]

Floats = npt.NDArray[np.float32]
_EPSILON = 1e-5  # of torch's BatchNorm2d
_BLOCKS = tuple(f"layer{number}.0" for number in (1, 2, 3, 4))  # one basic block a stage (He et al. 2016, figure 5)


def fold(state: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, Floats]:
    """Weights [k, k, in, out] and biases of a `monai.networks.nets.ResNet` with one basic block a stage.

    Args:
        state: its state dict as arrays; shortcut type B without bias.
    """
    folded = _folded(state, "stem", "conv1", "bn1")
    for block in _BLOCKS:
        folded |= _folded(state, f"{block}.a", f"{block}.conv1", f"{block}.bn1")
        folded |= _folded(state, f"{block}.b", f"{block}.conv2", f"{block}.bn2")
        if f"{block}.downsample.0.weight" in state:
            folded |= _folded(state, f"{block}.down", f"{block}.downsample.0", f"{block}.downsample.1")
    head = {"head.weight": state["fc.weight"].T, "head.bias": state["fc.bias"]}
    return folded | {name: np.ascontiguousarray(value, np.float32) for name, value in head.items()}


def needed() -> set[str]:
    """The names that every folded network has."""
    layers = ["stem", "head", *(f"{block}.{part}" for block in _BLOCKS for part in "ab")]
    return {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}


def forward(folded: Mapping[str, Floats], images: Floats) -> Floats:
    """Logits [n, outputs] of images [n, size, size]."""
    x = _relu(_convolve(folded, "stem", images[..., np.newaxis], 2))
    x = _pool(x)
    for place, block in enumerate(_BLOCKS):
        stride = 2 if place else 1
        inner = _convolve(folded, f"{block}.b", _relu(_convolve(folded, f"{block}.a", x, stride)), 1)
        beside = _convolve(folded, f"{block}.down", x, stride) if f"{block}.down.weight" in folded else x
        x = _relu(inner + beside)
    logits: Floats = x.mean(axis=(1, 2)) @ folded["head.weight"] + folded["head.bias"]
    return logits


def _folded(state: Mapping[str, npt.NDArray[np.generic]], name: str, conv: str, norm: str) -> dict[str, Floats]:
    gain, shift, mean, variance = (
        state[f"{norm}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gain / np.sqrt(variance + _EPSILON)
    weight = state[f"{conv}.weight"].astype(np.float64) * scale[:, None, None, None]
    return {
        f"{name}.weight": np.ascontiguousarray(weight.transpose(2, 3, 1, 0), np.float32),
        f"{name}.bias": (shift - mean * scale).astype(np.float32),
    }


def _convolve(folded: Mapping[str, Floats], name: str, x: Floats, stride: int) -> Floats:
    """`x` [n, rows, columns, in], padded so that only the stride makes it smaller."""
    weight = folded[f"{name}.weight"]
    kernel, outputs = weight.shape[0], weight.shape[3]
    patches = np.concatenate(_shifted(x, kernel, stride), axis=-1) if kernel > 1 else x[:, ::stride, ::stride]
    result: Floats = patches @ weight.reshape(-1, outputs) + folded[f"{name}.bias"]
    return result


def _pool(x: Floats) -> Floats:
    first, *others = _shifted(x, 3, 2)  # after a ReLU, padding with 0 is padding with the least value
    result = first.copy()
    for other in others:
        np.maximum(result, other, out=result)
    return result


def _shifted(x: Floats, kernel: int, stride: int) -> list[Floats]:
    """Views of the padded `x`, one for each place in the kernel, row by row."""
    edge = kernel // 2
    wide = np.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    rows, columns = -(-x.shape[1] // stride) * stride, -(-x.shape[2] // stride) * stride
    return [wide[:, i : i + rows : stride, j : j + columns : stride] for i in range(kernel) for j in range(kernel)]


def _relu(x: Floats) -> Floats:
    return np.maximum(x, 0, out=x)
