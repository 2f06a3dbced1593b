"""Phantoms as films in a manifest, and a network small enough to train within a test."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from models.phantom import ABNORMALITIES, chest

NETWORK: dict[str, Any] = {
    "_target_": "monai.networks.nets.ResNet",
    "block": "basic",
    "layers": [1, 1, 1, 1],
    "block_inplanes": [4, 8, 8, 16],
    "spatial_dims": 2,
    "n_input_channels": 1,
    "conv1_t_size": 3,
    "conv1_t_stride": 2,
}
COLUMNS = ("image", "source", "split", "group", "label_abnormal", "label_radiologist", "findings", "label_basis")
MINED = "NIH report text mining (Data_Entry_2017_v2020)"


def write_manifest(folder: Path, films: dict[str, int]) -> Path:
    """A manifest with `films[split]` phantoms in each split, every second one with an opacity."""
    abnormality = next(name for name in ABNORMALITIES if name)
    rows, seed = [], 0
    for split, count in films.items():
        for _ in range(count):
            seed += 1
            sick = seed % 2
            film = chest(seed, abnormality if sick else "", rows=128, columns=112)
            name = f"{seed:04d}.png"
            cv2.imwrite(str(folder / name), (film / 16).astype(np.uint8))
            rows.append(
                (name, "site", split, f"patient {seed}", sick, "", "Infiltration" if sick else "No Finding", MINED)
            )
    return write_rows(folder, rows)


def write_rows(folder: Path, rows: list[tuple[object, ...]], columns: tuple[str, ...] = COLUMNS) -> Path:
    """A manifest of these rows."""
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as lines:
        table = csv.writer(lines)
        table.writerow(columns)
        table.writerows(rows)
    return manifest


def write_foreign_bundle(folder: Path, labels: list[str], *, size: int = 64, channels: int = 1) -> Path:
    """A MONAI bundle as others make them: random weights of `NETWORK`, no key of ours."""
    import torch

    from models.networks import build_network

    definition = {**NETWORK, "n_input_channels": channels, "num_classes": len(labels)}
    torch.manual_seed(1)
    network = build_network(definition)
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    inference = {"imports": ["$import os"], "device": "$os.getenv('DEVICE')", "network_def": definition}
    (folder / "configs" / "inference.json").write_text(json.dumps(inference))
    image = {"num_channels": channels, "spatial_shape": [size, size], "value_range": [0, 1]}
    pred = {"channel_def": {str(place): label for place, label in enumerate(labels)}}
    metadata = {"version": "1.2.3", "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}}}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return folder


def change_json(file: Path, **changes: object) -> None:
    """Set top-level keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def add_our_key(bundle: Path, **ours: object) -> None:
    """Make a foreign bundle one of ours: the digest of its weights and whatever else is given."""
    digest = hashlib.sha256((bundle / "models" / "model.pt").read_bytes()).hexdigest()
    change_json(bundle / "configs" / "metadata.json", sangloc={"weights_sha256": digest} | ours)
