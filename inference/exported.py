"""A network converted to OpenVINO, kept beside a few films and the answers that torch gave for them.

    CACHE/<key>/model.xml, model.bin    the network, float32: logits and, where it has one, its last feature map
    CACHE/<key>/probe.npz               inputs, the logits and features that torch computed for them, and the head

    CACHE/<key>/speed.json              which way of running it is the fastest here (`inference.selfbench`)

The key is a digest of weights, network and versions: a new model is converted anew, an old one never. The folder is
renamed into place when it is whole. A copy that cannot be read, or does not answer as torch did, is made again once.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import structlog

from inference.selfbench import TORCH, fastest_first, keep_measured
from models.bundle import Bundle
from models.features import Head, Outputs, pooled, split_head
from models.phantom import chest
from storage.errors import InvalidBundle

# Nothing here calls home: OpenVINO's converter would report its use to the vendor where it finds this package.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402

__all__ = ["Compiled", "OpenVinoEngine", "agreement", "compiled", "export"]

Floats = npt.NDArray[np.float32]
log = structlog.get_logger()

_FORMAT = 2  # of the folder; part of the key
_TOLERANCE = {"bf16": 0.03, "f32": 1e-3}  # of a probability; bf16 was seen to differ by 0.008 at most
_FEATURES_TOLERANCE = {"bf16": 0.05, "f32": 1e-3}  # of a mean over places, in the probe's greatest such mean
_PROBES = (("", 1), ("opacity", 2), ("effusion", 3))


class Predicts(Protocol):
    """Whatever runs a network."""

    def predict(self, batch: Floats) -> Outputs:
        """Logits and features of inputs [n, channels, size, size]."""


class OpenVinoEngine:
    """OpenVINO on the CPU, in the precision that is the fastest here and agrees with torch.

    Attributes:
        torch_is_faster: whether torch in bf16 was measured to be so.
    """

    name = "openvino"

    def __init__(self, bundle: Bundle, cache_dir: Path | None = None) -> None:
        folder = (cache_dir or _user_cache()) / _key(bundle)
        for attempt in ("kept", "new"):
            if attempt == "new":
                shutil.rmtree(folder, ignore_errors=True)
            if not folder.is_dir():
                log.info("converting the model, once", model=bundle.name, folder=str(folder))
                _export_apart(bundle, folder)
            try:
                self._use(folder, fastest_first(bundle, folder))
            except (RuntimeError, OSError, ValueError, KeyError) as error:
                log.warning("the converted model cannot be used", copy=attempt, error=str(error))
            else:
                return
        raise InvalidBundle("the model gives other numbers in OpenVINO than in torch; set the device to cpu")

    def predict(self, batch: Floats) -> Outputs:
        """Logits and features of inputs [n, channels, size, size]."""
        return self._network.predict(batch)

    def _use(self, folder: Path, ways: Sequence[str]) -> None:
        self.torch_is_faster = ways[:1] == (TORCH,)
        problem = RuntimeError("no precision of OpenVINO agrees with torch")
        for precision in (way for way in ways if way != TORCH):
            network = compiled(folder, precision)
            try:
                difference = agreement(folder, network, precision)
            except RuntimeError as error:
                problem = error
                continue
            log.info("model compiled", engine="openvino", precision=precision, difference=round(difference, 5))
            self._network, self.precision, self.head = network, precision, _head(folder)
            return
        raise problem


class Compiled(NamedTuple):
    """A network that OpenVINO compiled."""

    request: Any

    def predict(self, batch: Floats) -> Outputs:
        """Logits and features of inputs [n, channels, size, size]."""
        answers = self.request.infer({0: np.ascontiguousarray(batch, np.float32)}, share_inputs=True)
        each = [np.asarray(answers[place], np.float32) for place in range(len(answers))]  # copied by `infer`
        return Outputs(each[0], each[1] if len(each) > 1 else None)


def export(bundle: Bundle, folder: Path) -> None:
    """Convert the bundle's network into `folder`, which appears when it is whole. Takes some ten seconds, once."""
    import torch  # noqa: PLC0415

    probe = np.stack([bundle.prepare(chest(seed, kind, rows=512, columns=448)) for kind, seed in _PROBES])  # type: ignore[arg-type]
    network = bundle.network().requires_grad_(False)
    plain: Any = getattr(network, "set_swish", None)
    if plain is not None:  # EfficientNet's default one saves memory in training, and cannot be traced
        plain(memory_efficient=False)
    split = split_head(network, bundle.network_def)
    with torch.inference_mode():
        images = torch.from_numpy(probe)
        answers = {"logits": network(images).numpy()}  # the network's own, whatever runs in its place
        if split is not None:
            answers |= {"features": split.run(images)[1].numpy()} | split.numbers()._asdict()
        traced = torch.jit.trace(split.run if split else network, images[:1], check_trace=False)  # type: ignore[no-untyped-call]
        model = openvino.convert_model(traced, example_input=images[:1])
    model.reshape([-1, *probe.shape[1:]])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as made:
        target = Path(made) / "copy"
        target.mkdir()
        openvino.save_model(model, target / "model.xml", compress_to_fp16=False)
        np.savez(target / "probe.npz", inputs=probe, **answers)
        try:
            target.rename(folder)
        except OSError:  # another worker was faster
            if not folder.is_dir():
                raise


def _export_apart(bundle: Bundle, folder: Path) -> None:
    """Convert and measure in a process of its own, which takes torch's 400 MB with it when it ends."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(_export_and_measure, bundle, folder).result()


def _export_and_measure(bundle: Bundle, folder: Path) -> None:
    export(bundle, folder)
    with suppress(Exception):  # `fastest_first` tries again, and tells
        keep_measured(bundle, folder)


def compiled(folder: Path, precision: str) -> Compiled:
    """The converted network in a precision, bf16 or f32; raises RuntimeError where OpenVINO cannot."""
    core = openvino.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise RuntimeError("this processor does not compute in bf16")
    options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    return Compiled(core.compile_model(core.read_model(folder / "model.xml"), "CPU", options).create_infer_request())


def agreement(folder: Path, network: Predicts, precision: str) -> float:
    """The greatest difference of a probability from torch's in float32; raises RuntimeError where it is too great."""
    with np.load(folder / "probe.npz") as probe:
        inputs, expected = probe["inputs"], Outputs(probe["logits"], probe.get("features"))
    difference, drift = _differences(network.predict(inputs), expected)
    if difference <= _TOLERANCE[precision] and drift <= _FEATURES_TOLERANCE[precision]:  # false for NaN
        return difference
    raise RuntimeError(f"its probabilities differ by {difference:.3f} from torch's, its features by {drift:.3f}")


def _head(folder: Path) -> Head | None:
    with np.load(folder / "probe.npz") as probe:
        return Head(probe["weights"], probe["bias"]) if "weights" in probe else None


def _differences(got: Outputs, expected: Outputs) -> tuple[float, float]:
    """The greatest difference of a probability, and of a feature's mean in units of the greatest expected mean."""
    difference = float(np.abs(_sigmoid(got.logits) - _sigmoid(expected.logits)).max())
    if expected.features is None:
        return difference, 0.0
    if got.features is None or got.features.shape != expected.features.shape:
        raise ValueError("the converted model does not give the network's features")
    means = pooled(expected.features)
    return difference, float(np.abs(pooled(got.features) - means).max() / max(float(np.abs(means).max()), 1e-6))


def _sigmoid(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -60, 60))))


def _key(bundle: Bundle) -> str:
    parts = [
        _FORMAT,
        openvino.__version__,
        bundle.weights_sha256,
        dict(bundle.network_def),
        bundle.channels,
        bundle.input_size,
        bundle.value_range,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sangloc"
