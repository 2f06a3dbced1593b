"""MONAI bundles on disk: what the engine loads. Data only, never code.

    BUNDLE/configs/metadata.json     MONAI's metadata; our additions under the key "sangloc" (see `Bundle`)
    BUNDLE/configs/inference.json    (or .yaml) of which only `network_def` is read; expressions are never evaluated
    BUNDLE/models/model.pt           a state dict, loaded with weights_only
    BUNDLE/docs/README.md            the model card

A bundle without our key is a foreign one: plain sigmoid, thresholds of 0.5, pixel range from its metadata.
`sangloc models import` (`models.importers`) gives it our key, with the preprocessing that its network was trained on.
torch and MONAI are imported by `Bundle.network` only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from models.calibration import Calibration
from models.data import ABNORMAL
from models.networks import build_network, check_definition
from models.preprocess import Frame, central_square, frame_and_work, in_whole, scale, standardise, to_square
from storage.errors import InvalidBundle

if TYPE_CHECKING:
    import torch

__all__ = ["CENTRAL", "DEFAULT_BUNDLE", "METADATA", "WEIGHTS", "Bundle", "load_bundle"]

DEFAULT_BUNDLE = Path(__file__).parent / "bundles" / "chest_xray"
WEIGHTS = Path("models/model.pt")
METADATA = Path("configs/metadata.json")
CENTRAL = "central square"  # a geometry in our key "preprocessing"
KIND = "findings"  # what a bundle is that does not say so; "input gate": models.gate
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
    normalise: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # then: mean and deviation of each channel
    central: bool = False  # the network was trained on central squares of films, not on films squeezed to a square
    network_def: Mapping[str, Any]
    calibration: Calibration  # over `outputs`
    abnormal_calibration: Calibration | None = None  # of an 'Abnormal' that is made of the findings, over its logit
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
        return self.framed(film)[1]

    def framed(self, film: npt.NDArray[np.generic]) -> tuple[Frame, npt.NDArray[np.float32]]:
        """The part of the film that the network sees, and `prepare`; raises `NotScorable`."""
        frame, work = frame_and_work(central_square(film) if self.central else film)
        if self.central:
            frame = in_whole(film, frame)
        square = to_square(work, self.input_size)
        image = standardise(square) if self.value_range is None else scale(square, *self.value_range)
        image = image if self.channels == 1 else np.repeat(image, self.channels, axis=0)
        if self.normalise is None:
            return frame, image
        mean, deviation = (np.array(each, np.float32)[:, np.newaxis, np.newaxis] for each in self.normalise)
        return frame, np.asarray((image - mean) / deviation, np.float32)

    def probabilities(self, logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Calibrated probabilities [n, findings] of the network's logits [n, outputs].

        A network without an output 'Abnormal' gets one: the greatest of its findings.
        """
        each = self.calibration.apply(logits)
        if self.outputs[0] == ABNORMAL:
            return each
        diseased = [name.lower() not in _NORMAL for name in self.outputs]
        abnormal = each[:, diseased].max(axis=1)
        if self.abnormal_calibration is not None:
            inside = np.clip(abnormal, 1e-9, 1 - 1e-9)
            abnormal = self.abnormal_calibration.apply(np.log(inside / (1 - inside))[:, np.newaxis])[:, 0]
        return np.column_stack([abnormal, each])

    def refitted(self, fit: Mapping[str, Any]) -> Bundle:
        """The same network with the calibration and thresholds of a site (`models.sitefit`).

        Raises:
            InvalidBundle: they are not for this network's outputs.
        """
        return replace(self, **_fitted(fit, self.outputs))

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
    if ours.get("kind", KIND) != KIND:
        raise InvalidBundle(f"{path} is an {ours['kind']}, which scores no findings")
    image, outputs = _formats(metadata)
    heads = check_definition(definition)
    if heads != len(outputs):
        raise InvalidBundle(f"the metadata names {len(outputs)} labels, the network has {heads} outputs")
    pixels = _mapping(ours.get("preprocessing", {"value_range": None} if ours else image), "preprocessing")
    channels = _channels(image)
    return Bundle(
        path=path,
        name=str(metadata.get("name") or path.resolve().name),
        version=str(metadata.get("version", "0")),
        weights_sha256=digest,
        outputs=outputs,
        input_size=_size(image),
        channels=channels,
        value_range=_range(pixels),
        normalise=_normal(pixels, channels),
        central=pixels.get("geometry") == CENTRAL,
        network_def=definition,
        **_fitted(ours, outputs),
    )


def _fitted(ours: Mapping[str, Any], outputs: tuple[str, ...]) -> dict[str, Any]:
    """What was fitted on films: the fields of `Bundle` from our key, or from the fit of a site."""
    derived = outputs[0] != ABNORMAL
    findings = len(outputs) + derived
    default = {"balanced": [0.5] * findings}
    given = _mapping(ours.get("operating_points", default), "operating_points")
    points = {name: _thresholds(values, name, findings) for name, values in given.items()}
    point = str(ours.get("operating_point", "balanced"))
    if point not in points:
        raise InvalidBundle(f"the operating point {point!r} is not among {', '.join(points)}")
    return {
        "calibration": _calibration(ours.get("calibration"), len(outputs)) or Calibration.identity(len(outputs)),
        "abnormal_calibration": _calibration(ours.get("abnormal_calibration"), 1) if derived else None,
        "operating_points": points,
        "operating_point": point,
    }


def _calibration(value: object, columns: int) -> Calibration | None:
    return None if value is None else Calibration.from_json(_mapping(value, "calibration"), columns)


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


def _normal(pixels: Mapping[str, Any], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    mean, deviation = pixels.get("mean"), pixels.get("std")
    if mean is None and deviation is None:
        return None
    try:
        means, deviations = np.array(mean, np.float64), np.array(deviation, np.float64)
    except (TypeError, ValueError):
        means = deviations = np.array([])
    good = means.shape == deviations.shape == (channels,) and np.isfinite([means, deviations]).all()
    if not good or deviations.min() <= 0:
        raise InvalidBundle(f"the preprocessing does not hold a mean and a positive deviation for {channels} channels")
    return tuple(means.tolist()), tuple(deviations.tolist())


def _thresholds(values: object, name: str, findings: int) -> tuple[float, ...]:
    good = isinstance(values, list) and len(values) == findings
    if not good or not all(isinstance(value, int | float) and 0 <= value <= 1 for value in cast("list[Any]", values)):
        raise InvalidBundle(f"operating point {name!r} does not hold a threshold from 0 to 1 for {findings} findings")
    return tuple(float(value) for value in cast("list[float]", values))
