"""MONAI bundles on disk: what the engine loads. Data only, never code.

    BUNDLE/configs/metadata.json     MONAI's metadata; our additions under the key "sangloc" (see `Bundle`)
    BUNDLE/configs/inference.json    (or .yaml) of which only `network_def` is read; expressions are never evaluated
    BUNDLE/models/model.pt           a state dict, loaded with weights_only
    BUNDLE/docs/README.md            the model card

A bundle without our key is a foreign one: plain sigmoid, thresholds of 0.5, pixel range from its metadata.
torch and MONAI are imported by `Bundle.network` only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from models.calibration import Calibration
from models.data import ABNORMAL
from models.networks import build_network, check_definition
from models.preprocess import scale, standardise, to_square, to_work
from storage.errors import InvalidBundle

if TYPE_CHECKING:
    import torch

__all__ = ["DEFAULT_BUNDLE", "Bundle", "load_bundle"]

DEFAULT_BUNDLE = Path(__file__).parent / "bundles" / "chest_xray"
WEIGHTS = Path("models/model.pt")
METADATA = Path("configs/metadata.json")
_NORMAL = {"no finding", "normal"}
_MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """One model, checked and ready to be built."""

    path: Path
    name: str
    version: str
    weights_sha256: str  # 64 hexadecimal digits
    outputs: tuple[str, ...]  # the network's outputs, in order
    input_size: int  # px, both sides
    channels: int  # of the input; a grey film is repeated
    value_range: tuple[float, float] | None  # what a foreign network wants; None: mean 0 and deviation 1 by image
    network_def: Mapping[str, Any]
    calibration: Calibration  # over `outputs`
    operating_points: Mapping[str, tuple[float, ...]]  # name -> a threshold for each of `findings`
    operating_point: str  # the name in use unless a site sets another

    @property
    def findings(self) -> tuple[str, ...]:
        """'Abnormal' first, then the others: the columns of `probabilities`."""
        return self.outputs if self.outputs[0] == ABNORMAL else (ABNORMAL, *self.outputs)

    @property
    def thresholds(self) -> tuple[float, ...]:
        """A threshold for each of `findings` at the bundle's own operating point; at or above it is a flag."""
        return self.operating_points[self.operating_point]

    def prepare(self, film: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """The network's input [channels, input_size, input_size] for a grey film; raises `NotScorable`."""
        square = to_square(to_work(film), self.input_size)
        image = standardise(square) if self.value_range is None else scale(square, *self.value_range)
        return image if self.channels == 1 else np.repeat(image, self.channels, axis=0)

    def probabilities(self, logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Calibrated probabilities [n, findings] of the network's logits [n, outputs].

        A network without an output 'Abnormal' gets one: the greatest of its findings.
        """
        each = self.calibration.apply(logits)
        if self.outputs[0] == ABNORMAL:
            return each
        diseased = [name.lower() not in _NORMAL for name in self.outputs]
        return np.column_stack([each[:, diseased].max(axis=1), each])

    def network(self) -> torch.nn.Module:
        """The MONAI network with the bundle's weights (float32), in evaluation mode.

        Raises:
            InvalidBundle: the weights are no state dict of this network, or not all finite.
        """
        import torch  # noqa: PLC0415 - the receiver and the API read bundles without torch

        file = self.path / WEIGHTS
        net = build_network(self.network_def)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises whatever the broken file leads it into
            raise InvalidBundle(f"{file} is not a state dict: {str(error).splitlines()[0]}") from error
        if isinstance(state, dict):
            state = next((state[key] for key in ("model", "state_dict") if isinstance(state.get(key), dict)), state)
        if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise InvalidBundle(f"{file} is not a state dict")
        bad = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
        if bad:
            raise InvalidBundle(f"{file} has weights that are not finite numbers, first in {bad[0]}")
        try:
            net.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise InvalidBundle(f"{file} does not fit the network {self.network_def['_target_']}: {reason}") from error
        return net.eval()


def load_bundle(path: Path) -> Bundle:
    """The bundle in a folder, everything checked that can be without torch.

    Raises:
        InvalidBundle: a file is missing or not of its format, the weights' SHA-256 is not the one in the metadata, the
            network is not in the allow-list, or labels, head, thresholds and calibration disagree.
    """
    path = Path(path)
    metadata = _read_json(path / METADATA)
    definition = _network_def(path)
    digest = _sha256(path / WEIGHTS)
    ours = _mapping(metadata.get("sangloc", {}), "sangloc")
    recorded = ours.get("weights_sha256", digest)
    if recorded != digest:
        raise InvalidBundle(
            f"{path / WEIGHTS} has SHA-256 {digest[:16]}..., the metadata names {str(recorded)[:16]}..."
        )
    image, outputs = _formats(metadata)
    heads = check_definition(definition)
    if heads != len(outputs):
        raise InvalidBundle(f"the metadata names {len(outputs)} labels, the network has {heads} outputs")
    findings = len(outputs) + (outputs[0] != ABNORMAL)
    points = {
        name: _thresholds(values, name, findings)
        for name, values in _mapping(
            ours.get("operating_points", {"balanced": [0.5] * findings}), "operating_points"
        ).items()
    }
    point = str(ours.get("operating_point", "balanced"))
    if point not in points:
        raise InvalidBundle(f"the operating point {point!r} is not among {', '.join(points)}")
    calibration = ours.get("calibration")
    return Bundle(
        path=path,
        name=str(metadata.get("name") or path.resolve().name),
        version=str(metadata.get("version", "0")),
        weights_sha256=digest,
        outputs=outputs,
        input_size=_size(image),
        channels=_channels(image),
        value_range=None if ours else _range(image),
        network_def=definition,
        calibration=Calibration.identity(len(outputs)) if calibration is None
        else Calibration.from_json(_mapping(calibration, "calibration"), len(outputs)),
        operating_points=points,
        operating_point=point,
    )  # fmt: skip


def _read_json(file: Path) -> dict[str, Any]:
    return _mapping(_parsed(file), file.name)


def _parsed(file: Path) -> object:
    try:
        if file.stat().st_size > _MAX_CONFIG_BYTES:
            raise InvalidBundle(f"{file} is larger than any configuration")
        text = file.read_text("utf-8")
    except FileNotFoundError as error:
        raise InvalidBundle(f"the bundle has no file {file}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidBundle(f"{file} cannot be read: {error}") from error
    try:
        if file.suffix == ".json":
            return json.loads(text)
        import yaml  # type: ignore[import-untyped]  # noqa: PLC0415 - optional

        return yaml.safe_load(text)
    except (ValueError, RecursionError) as error:
        raise InvalidBundle(f"{file} is not valid JSON: {error}") from error
    except ImportError as error:
        raise InvalidBundle(f"{file} needs PyYAML, which is not installed") from error
    except yaml.YAMLError as error:
        raise InvalidBundle(f"{file} is not valid YAML") from error


def _network_def(path: Path) -> dict[str, Any]:
    files = [path / "configs" / f"inference.{suffix}" for suffix in ("json", "yaml", "yml")]
    file = next((file for file in files if file.exists()), files[0])
    config = _read_json(file)
    definition = config.get("network_def", config.get("network"))
    if not isinstance(definition, dict):
        raise InvalidBundle(f"{file} has no network_def with a _target_")
    return cast("dict[str, Any]", definition)


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as weights:
            return hashlib.file_digest(weights, "sha256").hexdigest()
    except OSError as error:
        raise InvalidBundle(f"the bundle has no file {file}") from error


def _mapping(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidBundle(f"{name} is not a table of names and values")
    return cast("dict[str, Any]", value)


def _formats(metadata: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The image input's description and the names of the outputs, from MONAI's `network_data_format`."""
    formats = _mapping(metadata.get("network_data_format"), "network_data_format")
    image = next(iter(_mapping(formats.get("inputs"), "network_data_format.inputs").values()), None)
    output = next(iter(_mapping(formats.get("outputs"), "network_data_format.outputs").values()), None)
    labels = _mapping(_mapping(output, "the output").get("channel_def"), "channel_def")
    try:
        names = tuple(str(labels[str(place)]) for place in range(len(labels)))
    except KeyError as error:
        raise InvalidBundle(f"channel_def does not number its labels from 0: {error} is missing") from error
    if not names or len(set(names)) != len(names):
        raise InvalidBundle("channel_def names no labels, or one label twice")
    return _mapping(image, "the input"), names


def _size(image: Mapping[str, Any]) -> int:
    shape = image.get("spatial_shape")
    if not isinstance(shape, list) or len(shape) != 2 or shape[0] != shape[1] or not isinstance(shape[0], int):
        raise InvalidBundle(f"spatial_shape {shape!r} is not a square of two whole numbers")
    if not 32 <= shape[0] <= 2048:
        raise InvalidBundle(f"an input of {shape[0]} px is outside 32 to 2048")
    return int(shape[0])


def _channels(image: Mapping[str, Any]) -> int:
    channels = image.get("num_channels", 1)
    if channels not in (1, 3):
        raise InvalidBundle(f"an input of {channels!r} channels is not a film's: 1 or 3")
    return int(channels)


def _range(image: Mapping[str, Any]) -> tuple[float, float] | None:
    value = image.get("value_range")
    if isinstance(value, list) and len(value) == 2 and all(isinstance(v, int | float) for v in value):
        return float(value[0]), float(value[1])
    return None


def _thresholds(values: object, name: str, findings: int) -> tuple[float, ...]:
    good = isinstance(values, list) and len(values) == findings
    if not good or not all(isinstance(value, int | float) and 0 <= value <= 1 for value in cast("list[Any]", values)):
        raise InvalidBundle(f"operating point {name!r} does not hold a threshold from 0 to 1 for {findings} findings")
    return tuple(float(value) for value in cast("list[float]", values))
