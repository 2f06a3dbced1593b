"""MONAI bundles of others, and bundles written anew: metadata, network, card. Nothing else is taken over."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.bundle import METADATA, load_bundle
from models.data import ABNORMAL
from models.importers import archive
from models.importers.labels import ours
from models.importers.sources import stem
from storage.errors import InvalidBundle

__all__ = ["take", "write"]

CARD = Path("docs/README.md")
_INFERENCE = Path("configs/inference.json")
_MAX_CARD = 200_000  # characters


def take(path: Path, folder: Path, source: str, *, name: str, version: str) -> None:
    """The bundle of a folder or zip, written into `folder`; one without our key gets it, with our names of findings.

    Raises:
        InvalidBundle: it cannot be used.
    """
    if path.is_dir():
        _copy(path, folder)
    else:
        archive.unpack(path, folder)
    bundle = load_bundle(folder)  # refuses before anything is changed, with the reason
    metadata = json.loads((folder / METADATA).read_text("utf-8"))
    metadata["name"] = name or _typable(str(metadata.get("name") or stem(source)))
    metadata["version"] = version or _typable(str(metadata.get("version", "1")))
    if "sangloc" not in metadata:
        labels = ours(bundle.outputs)
        if len(set(labels)) != len(labels) or ABNORMAL in labels[1:]:
            raise InvalidBundle(
                f"the labels name one finding twice, or {ABNORMAL} in another place than the first: {', '.join(labels)}"
            )
        output = next(iter(metadata["network_data_format"]["outputs"].values()))
        output["channel_def"] = {str(place): label for place, label in enumerate(labels)}
        pixels = {"value_range": list(bundle.value_range) if bundle.value_range else None}
        metadata["sangloc"] = {
            "weights_sha256": bundle.weights_sha256, "origin": "monai", "source": source, "preprocessing": pixels,
        }  # fmt: skip
        _write_card(folder, metadata, labels, bundle.outputs)
    for other in (folder / "configs").glob("inference.y*ml"):
        other.unlink()
    # Only the network's definition was read and checked; the rest of the file is never looked at again.
    (folder / _INFERENCE).write_text(json.dumps({"network_def": dict(bundle.network_def)}, indent=1))
    (folder / METADATA).write_text(json.dumps(metadata, indent=1))


def write(
    folder: Path, *, name: str, version: str, definition: Mapping[str, Any], image: Mapping[str, Any],
    labels: Sequence[str], key: Mapping[str, Any],
) -> None:  # fmt: skip
    """The configuration and the card beside weights that lie there already; `key` is our key of the metadata."""
    output = {
        "type": "logits",
        "num_channels": len(labels),
        "channel_def": dict(zip(map(str, range(len(labels))), labels, strict=True)),
    }
    metadata = {
        "name": name, "version": version, "changelog": {version: f"imported from {key['source']}"},
        "task": "Findings in frontal chest radiographs", "intended_use": "Research use. Not a medical device.",
        "network_data_format": {"inputs": {"image": dict(image)}, "outputs": {"pred": output}},
        "sangloc": dict(key),
    }  # fmt: skip
    (folder / METADATA).parent.mkdir(parents=True, exist_ok=True)
    (folder / _INFERENCE).write_text(json.dumps({"network_def": dict(definition)}, indent=1))
    (folder / METADATA).write_text(json.dumps(metadata, indent=1))
    _write_card(folder, metadata, labels, labels)


def _copy(path: Path, folder: Path) -> None:
    total = 0
    for name in archive.KEPT:
        file = path / name
        if file.is_file():
            total += file.stat().st_size
            if total > archive.MAX_BYTES:
                raise InvalidBundle(f"{path} is larger than {archive.MAX_BYTES >> 20} MiB")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / name)


def _write_card(folder: Path, metadata: Mapping[str, Any], labels: Sequence[str], theirs: Sequence[str]) -> None:
    key = metadata["sangloc"]
    pixels = ", ".join(f"{name} {value}" for name, value in key["preprocessing"].items() if value is not None)
    size = next(iter(metadata["network_data_format"]["inputs"].values()))["spatial_shape"][0]
    names = "\n".join(
        f"| {place} | {other} | {name} |" for place, (other, name) in enumerate(zip(theirs, labels, strict=True))
    )
    made = "" if ABNORMAL in labels else (
        f"\nThere is no output `{ABNORMAL}`: the greatest of the findings stands for it, calibrated for a site by "
        "`sangloc models calibrate`.\n"
    )  # fmt: skip
    own = _author_text(folder / CARD)
    (folder / CARD).parent.mkdir(exist_ok=True)
    (folder / CARD).write_text(
        f"""# {metadata["name"]} {metadata["version"]}

Imported from `{key["source"]}` ({key["origin"]}). Research use, not a medical device. **Nothing is known here of
how good it is**: it has no figures until `sangloc models evaluate` has judged it on the site's own labelled films, and
is not activated before.

- Weights: SHA-256 `{key["weights_sha256"]}`.
- Input: {size} x {size} px; {pixels or "mean 0 and deviation 1 of each image"}.
- Each output is read as a logit of its own (sigmoid).
{made}
| output | its label | our name |
|---|---|---|
{names}
{own}""",
        "utf-8",
    )


def _author_text(file: Path) -> str:
    if not file.is_file():
        return ""
    return "\n## The author's own card\n\n" + file.read_text("utf-8", errors="replace")[:_MAX_CARD]


def _typable(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")[:64] or "model"
