"""What runs the network: CUDA through torch where there is a GPU, else the fastest of OpenVINO and torch on the CPU.

OpenVINO runs a DenseNet121 four times as fast as torch does on two cores. The network is converted once and kept
(`inference.exported`), so a worker on a CPU needs neither torch nor MONAI after that. Every engine must agree with the
network as torch computes it, on the same films, before it is used: at each start, not only when it is converted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt
import structlog

from models.bundle import Bundle
from models.features import Head, Outputs, split_head
from storage.errors import InvalidBundle

if TYPE_CHECKING:
    import torch

__all__ = ["Device", "Engine", "load_engine"]

Device = Literal["auto", "cuda", "openvino", "cpu"]
Floats = npt.NDArray[np.float32]
log = structlog.get_logger()


class Engine(Protocol):
    """A network that is ready to run. Used by one thread at a time."""

    name: str  # torch-cuda | openvino | torch-cpu
    head: Head | None  # what makes logits of the features; None where it gives none

    def predict(self, batch: Floats) -> Outputs:
        """Logits and features of inputs [n, channels, size, size]."""


def load_engine(bundle: Bundle, device: Device = "auto", cache_dir: Path | None = None) -> Engine:
    """The engine for a bundle on this machine.

    Args:
        bundle: the model.
        device: 'auto' takes the fastest that works here.
        cache_dir: where the converted network is kept; None: the user's cache folder.

    Raises:
        InvalidBundle: the network cannot be built, or gives other numbers on this engine than in torch.
    """
    if device == "cuda" or (device == "auto" and _has_cuda()):
        from inference.cuda import CudaEngine  # noqa: PLC0415

        return CudaEngine(bundle)
    if device == "cpu":
        return TorchEngine(bundle)
    try:
        from inference.exported import OpenVinoEngine  # noqa: PLC0415  (0.4 s that the other engines do not need)

        engine = OpenVinoEngine(bundle, cache_dir)
        return TorchEngine(bundle, "bf16") if device == "auto" and engine.torch_is_faster else engine
    except (ImportError, RuntimeError) as error:
        if device == "openvino":
            raise InvalidBundle(f"OpenVINO cannot run the model here: {error}") from error
        log.warning("openvino cannot run the model, torch does", error=str(error))
        return TorchEngine(bundle)


class TorchEngine:
    """torch on the CPU, channels-last: float32, or bf16 where the processor computes with it."""

    name = "torch-cpu"

    def __init__(self, bundle: Bundle, precision: Literal["f32", "bf16"] = "f32") -> None:
        import torch  # noqa: PLC0415

        self._torch = torch
        self._dtype = torch.float32 if precision == "f32" else torch.bfloat16
        network: torch.nn.Module = bundle.network()
        self._split = split_head(network, bundle.network_def)  # shares the weights, wherever they go
        self.head = self._split.numbers() if self._split else None
        self._network = network.to(self._dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def predict(self, batch: Floats) -> Outputs:
        """Logits and features of inputs [n, channels, size, size]."""
        torch = self._torch
        with torch.inference_mode():
            images = torch.from_numpy(np.ascontiguousarray(batch))
            images = images.to(self._dtype, memory_format=torch.channels_last)
            logits, features = (self._network(images), None) if self._split is None else self._split.run(images)
            return Outputs(_numbers(logits), None if features is None else _numbers(features))


def _numbers(tensor: torch.Tensor) -> Floats:
    return np.ascontiguousarray(tensor.float().cpu().numpy(), np.float32)


def _has_cuda() -> bool:
    """Whether torch finds a GPU; torch is asked only where the driver is, as its import takes seconds."""
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg")):
        return False
    import torch  # noqa: PLC0415

    return torch.cuda.is_available()
