"""The MONAI networks that a bundle may ask for: an allow-list, because a configuration must never name any code."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from storage.errors import InvalidBundle

if TYPE_CHECKING:
    import torch

__all__ = ["NETWORKS", "build_network", "check_definition", "with_outputs"]

# name of the class in monai.networks.nets -> the argument that sets the number of outputs
NETWORKS = {
    "DenseNet": "out_channels",
    "DenseNet121": "out_channels",
    "DenseNet169": "out_channels",
    "DenseNet201": "out_channels",
    "DenseNet264": "out_channels",
    "EfficientNetBN": "num_classes",
    "ResNet": "num_classes",
    "SEResNet50": "num_classes",
}
_PREFIXES = ("", "monai.networks.nets.", "monai.networks.nets.densenet.", "monai.networks.nets.efficientnet.",
             "monai.networks.nets.resnet.", "monai.networks.nets.senet.")  # fmt: skip
_PRETRAINED = ("DenseNet121", "DenseNet169", "DenseNet201", "DenseNet264", "EfficientNetBN", "SEResNet50")
_QUIET = ("_target_", "_desc_")


def check_definition(definition: Mapping[str, Any]) -> int:
    """The number of outputs that a `network_def` (`_target_` and arguments) asks for, without importing MONAI.

    Raises:
        InvalidBundle: the target is not in the allow-list, an argument is an expression, or the outputs are not given.
    """
    target = definition.get("_target_")
    name = _class_name(definition)
    if name not in NETWORKS or str(target).removesuffix(name) not in _PREFIXES:
        raise InvalidBundle(
            f"the network {target!r} is not one of {', '.join(sorted(NETWORKS))} of monai.networks.nets"
        )
    for key, value in definition.items():
        if key.startswith("_") and key not in _QUIET:
            raise InvalidBundle(f"the key {key!r} in the network's definition is not taken")
        _refuse_code(value)
    outputs = definition.get(NETWORKS[name])
    if not isinstance(outputs, int) or outputs < 1:
        raise InvalidBundle(f"the network's definition does not say how many outputs it has ({NETWORKS[name]})")
    return outputs


def with_outputs(definition: Mapping[str, Any], outputs: int) -> dict[str, Any]:
    """The definition with a head of this size; raises `InvalidBundle` for an unknown network."""
    name = _class_name(definition)
    if name not in NETWORKS:
        raise InvalidBundle(f"the network {name!r} is not one of {', '.join(sorted(NETWORKS))}")
    return {**definition, NETWORKS[name]: outputs}


def build_network(definition: Mapping[str, Any]) -> torch.nn.Module:
    """The untrained network of a definition; raises `InvalidBundle` as `check_definition` and for wrong arguments."""
    check_definition(definition)
    name = _class_name(definition)
    arguments = {key: value for key, value in definition.items() if not key.startswith("_")}
    if name in _PRETRAINED:
        arguments["pretrained"] = False  # weights come from the bundle, never from the network
    network_class = getattr(importlib.import_module("monai.networks.nets"), name)
    try:
        network: torch.nn.Module = network_class(**arguments)
    except Exception as error:  # whatever wrong arguments lead a network into
        raise InvalidBundle(f"{name} cannot be built from the bundle's arguments: {error}") from error
    return network


def _class_name(definition: Mapping[str, Any]) -> str:
    return str(definition.get("_target_")).rpartition(".")[2]


def _refuse_code(value: object) -> None:
    """Numbers, names and lists only: no expression ($), no reference (@, %), no nested object."""
    if isinstance(value, Mapping):
        raise InvalidBundle("a nested object among the network's arguments is not taken")
    if isinstance(value, list | tuple):
        for item in value:
            _refuse_code(item)
    elif isinstance(value, str) and value.startswith(("$", "@", "%")):
        raise InvalidBundle(f"the expression {value[:40]!r} in the network's arguments is not taken")
    elif value is not None and not isinstance(value, str | int | float | bool):
        raise InvalidBundle(f"{value!r} among the network's arguments is not taken")
