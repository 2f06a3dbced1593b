"""What the metadata of a MONAI bundle says of the networks that are trained here. This module imports torch."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch

__all__ = ["describe", "write_json"]


def describe(
    outputs: Sequence[str], size: int, *, name: str, version: str, made_by: str, task: str, description: str,
    intended_use: str,
) -> dict[str, Any]:  # fmt: skip
    """`metadata.json` of a network for grey squares of `size` px whose logits are these outputs."""
    image = {
        "type": "image", "format": "magnitude", "modality": "DX", "num_channels": 1, "spatial_shape": [size, size],
        "dtype": "float32", "value_range": [], "is_patch_data": False, "channel_def": {"0": "image"},
    }  # fmt: skip
    logits = {
        "type": "logits", "format": "classes", "num_channels": len(outputs), "spatial_shape": [1, 1],
        "dtype": "float32", "value_range": [], "is_patch_data": False,
        "channel_def": {str(place): output for place, output in enumerate(outputs)},
    }  # fmt: skip
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json",
        "name": name,
        "version": version,
        "changelog": {version: made_by},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "python_version": platform.python_version(),
        "required_packages_version": {},
        "task": task,
        "description": description,
        "intended_use": intended_use,
        "authors": "the sangloc project",
        "copyright": "the sangloc project",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": logits}},
    }


def write_json(file: Path, value: object) -> None:
    """Write it for people to read, renamed into place."""
    draft = file.with_suffix(".part")
    draft.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
    draft.replace(file)
