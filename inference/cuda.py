"""torch on a GPU: bf16, channels-last, and CUDA graphs of a few fixed batch sizes.

A small network on a large GPU waits for the processor to launch its kernels; a graph launches all of them at once. A
graph needs fixed shapes and addresses, so a batch is padded to the next power of two and copied, through pinned
memory, to where the graph reads. Where a network cannot be captured it runs as it is. The numbers are held against
float32 on the CPU before the engine is used.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import structlog
import torch

from models.bundle import Bundle
from models.features import Outputs, split_head
from models.phantom import chest
from storage.errors import InvalidBundle

__all__ = ["CudaEngine"]

Floats = npt.NDArray[np.float32]
log = structlog.get_logger()
_LARGEST = 64  # images in one graph; a larger batch runs in parts
_TOLERANCE = 0.03  # of a probability, as for bf16 on the CPU


class _Graph(NamedTuple):
    """A captured pass with the memory that it reads and writes."""

    pinned: torch.Tensor  # float32, on the host
    given: torch.Tensor  # bf16, on the GPU
    logits: torch.Tensor
    features: torch.Tensor | None
    graph: Any  # torch.cuda.CUDAGraph; None: run as it is


class CudaEngine:
    """One GPU, the current one; several GPUs are several workers with CUDA_VISIBLE_DEVICES."""

    name = "torch-cuda"

    def __init__(self, bundle: Bundle) -> None:
        self._graphs: dict[int, _Graph] = {}
        network = bundle.network()
        split = split_head(network, bundle.network_def)
        self.head = split.numbers() if split else None
        films = np.stack([bundle.prepare(chest(seed, rows=256, columns=224)) for seed in range(3)])
        with torch.inference_mode():
            expected = bundle.probabilities(network(torch.from_numpy(films)).numpy())
        try:
            self._network = network.to("cuda", torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._split = split
            difference = float(np.abs(bundle.probabilities(self.predict(films).logits) - expected).max())
        except (RuntimeError, AssertionError) as error:  # no such device, or out of its memory
            raise InvalidBundle(f"the model cannot be put on cuda: {error}") from error
        if not difference <= _TOLERANCE:
            raise InvalidBundle(f"the model's probabilities on the GPU differ by {difference:.3f} from the CPU's")
        log.info("model on the GPU", device=torch.cuda.get_device_name(), difference=round(difference, 5))

    def predict(self, batch: Floats) -> Outputs:
        """Logits and features of inputs [n, channels, size, size]."""
        parts = [self._run(batch[start : start + _LARGEST]) for start in range(0, len(batch), _LARGEST)]
        if len(parts) == 1:
            return parts[0]
        maps = [part.features for part in parts if part.features is not None]
        return Outputs(np.concatenate([part.logits for part in parts]), np.concatenate(maps) if maps else None)

    def _run(self, batch: Floats) -> Outputs:
        n = len(batch)
        size = 1 << max(n - 1, 0).bit_length()
        with torch.inference_mode():
            graph = self._graphs.get(size)
            if graph is None:
                graph = self._graphs[size] = self._capture(size, batch.shape[1:])
            graph.pinned[:n].copy_(torch.from_numpy(np.ascontiguousarray(batch)))
            graph.given.copy_(graph.pinned, non_blocking=True)
            if graph.graph is None:
                logits, features = self._forward(graph.given)
            else:
                graph.graph.replay()
                logits, features = graph.logits, graph.features
            return Outputs(_numbers(logits[:n]), None if features is None else _numbers(features[:n]))

    def _forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return (self._network(images), None) if self._split is None else self._split.run(images)

    def _capture(self, size: int, shape: tuple[int, ...]) -> _Graph:
        pinned = torch.zeros((size, *shape), pin_memory=True)
        given = pinned.to("cuda", torch.bfloat16, memory_format=torch.channels_last)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # libraries choose their kernels before anything is captured
                logits, features = self._forward(given)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                logits, features = self._forward(given)
        except RuntimeError as error:
            log.warning("the network cannot be captured in a CUDA graph", error=str(error))
            return _Graph(pinned, given, logits, features, None)
        return _Graph(pinned, given, logits, features, graph)


def _numbers(tensor: torch.Tensor) -> Floats:
    return np.ascontiguousarray(tensor.float().cpu().numpy(), np.float32)
