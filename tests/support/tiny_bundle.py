"""A MONAI bundle of a few kilobytes with random weights, whose answers nobody may believe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["write_tiny_bundle"]

_NETWORK = {
    "_target_": "monai.networks.nets.DenseNet",
    "spatial_dims": 2,
    "in_channels": 1,
    "init_features": 8,
    "growth_rate": 4,
    "block_config": [2, 2],
}


def write_tiny_bundle(
    folder: Path,
    *,
    labels: Sequence[str] = ("Abnormal", "Effusion", "Pneumothorax"),
    offset: float = 0.0,
    seed: int = 1,
) -> Path:
    """Write the bundle; `offset` is added to every logit by its calibration: 20 flags every film, -20 none."""
    import torch

    from models.networks import build_network
    from models.phantom import chest
    from models.preprocess import prepare

    definition: dict[str, Any] = {**_NETWORK, "out_channels": len(labels)}
    torch.manual_seed(seed)
    for part in ("configs", "models"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    network = build_network(definition).eval()
    with torch.no_grad():  # spread the logits of films over some units around 0, so that a wrong engine shows
        films = torch.stack([torch.from_numpy(prepare(chest(n, rows=256, columns=224), 64)) for n in range(6)])
        network.class_layers.out.weight *= 2 / network(films).std(dim=0, keepdim=True).T
        network.class_layers.out.bias -= network(films).mean(dim=0)
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    digest = hashlib.sha256((folder / "models" / "model.pt").read_bytes()).hexdigest()
    (folder / "configs" / "inference.json").write_text(json.dumps({"network_def": definition}))
    image = {"num_channels": 1, "spatial_shape": [64, 64]}
    pred = {"channel_def": {str(i): label for i, label in enumerate(labels)}}
    ours = {
        "weights_sha256": digest,
        "calibration": {"method": "platt", "slope": [1.0] * len(labels), "offset": [offset] * len(labels)},
        "operating_points": {"balanced": [0.5] * len(labels)},
        "operating_point": "balanced",
    }
    metadata = {
        "name": "tiny",
        "version": "0.0.1",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
        "sangloc": ours,
    }
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return folder
