"""`sangloc models import`: a source of any kind becomes a bundle folder of ours, tried out on a film before it counts.

    a MONAI bundle (folder, zip)      its own files; our key in the metadata where it has none
    a checkpoint of a DenseNet        MONAI's DenseNet with these weights, the preprocessing it was trained on, a card

Imports torch when it works.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from models.bundle import WEIGHTS, Bundle, load_bundle
from models.data import ABNORMAL
from models.importers import archive, foreign
from models.importers.checkpoint import Checkpoint, read_checkpoint
from models.importers.densenet import DenseNet, convert
from models.importers.labels import CHEXNET, TORCHXRAYVISION, ours
from models.importers.sources import at_hand, shown, stem
from models.phantom import chest
from storage.errors import InvalidBundle, InvalidInput

__all__ = ["Imported", "Kind", "Wanted", "adopt"]

Kind = Literal["auto", "monai", "torchxrayvision", "torchvision"]
_SIZE = 224  # px, of all published checkpoints of these layouts

# What networks of an origin were trained on: the key "preprocessing" of a bundle.
PREPROCESSING: dict[str, dict[str, Any]] = {
    "torchxrayvision": {"geometry": "central square", "value_range": [-1024.0, 1024.0]},
    "torchvision": {"geometry": "squeezed", "value_range": [0.0, 1.0], "mean": [0.485, 0.456, 0.406],
                    "std": [0.229, 0.224, 0.225]},
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the person says of the source; '' and None leave it to the source."""

    kind: Kind = "auto"
    name: str = ""
    version: str = ""
    labels: tuple[str, ...] | None = None  # of the head, in its order; '' for an output to be left out
    sha256: str = ""  # that the file must have

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InvalidInput(f"{self.kind!r} is not one of {', '.join(get_args(Kind))}")


class Imported(NamedTuple):
    """A bundle that was tried out."""

    bundle: Bundle
    origin: str  # monai | torchxrayvision | torchvision
    source: str  # as it may be kept


def adopt(source: str, folder: Path, wanted: Wanted) -> Imported:
    """Write the bundle of a source into `folder`, and run its network once.

    Args:
        source: folder or zip of a MONAI bundle, checkpoint file, or a URL of either file.
        folder: that does not exist yet.
        wanted: what the person says of it.

    Raises:
        InvalidInput: there is no such source, or it is too large.
        InvalidBundle: it cannot be used; the reason is for a person.
        Unavailable: the server does not answer.
    """
    with at_hand(source, wanted.sha256) as path:
        if path.is_dir() or (wanted.kind in ("auto", "monai") and archive.holds_bundle(path)):
            origin = "monai"
            foreign.take(path, folder, shown(source), name=wanted.name, version=wanted.version)
        elif wanted.kind == "monai":
            raise InvalidBundle(f"{source} is neither a folder nor a zip file with a MONAI bundle")
        else:
            origin = _from_checkpoint(path, folder, source, wanted)
    bundle = load_bundle(folder)
    _try_out(bundle)
    return Imported(bundle, origin, shown(source))


def _from_checkpoint(file: Path, folder: Path, source: str, wanted: Wanted) -> str:
    import torch  # noqa: PLC0415 - seconds

    checkpoint = read_checkpoint(file)
    network = convert(checkpoint.state)
    origin = wanted.kind if wanted.kind != "auto" else "torchxrayvision" if network.channels == 1 else "torchvision"
    labels = _labels(network, checkpoint, wanted.labels, origin)
    kept = sorted((place for place, label in enumerate(labels) if label), key=lambda at: labels[at] != ABNORMAL)
    names = tuple(labels[place] for place in kept)
    (folder / WEIGHTS).parent.mkdir(parents=True)
    chosen = network.with_outputs(kept)
    torch.save(chosen.state, folder / WEIGHTS)
    with (folder / WEIGHTS).open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    pixels = PREPROCESSING[origin]
    if origin == "torchvision" and network.channels == 1:
        pixels = {"geometry": "squeezed", "value_range": [0.0, 1.0]}
    key: dict[str, Any] = {"weights_sha256": digest, "origin": origin, "source": shown(source), "preprocessing": pixels}
    points = _points(checkpoint.thresholds, kept, names)
    if points is not None:
        key |= {"operating_points": {"published": points}, "operating_point": "published"}
    foreign.write(
        folder, name=wanted.name or stem(source), version=wanted.version or "1", definition=chosen.definition,
        image={"num_channels": network.channels, "spatial_shape": [_SIZE, _SIZE]}, labels=names, key=key,
    )  # fmt: skip
    return origin


def _labels(network: DenseNet, checkpoint: Checkpoint, given: Sequence[str] | None, origin: str) -> tuple[str, ...]:
    """Our names of the head's outputs, '' for those that are left out."""
    published = TORCHXRAYVISION if origin == "torchxrayvision" else CHEXNET
    known = published if network.outputs == len(published) else None
    labels = given or checkpoint.labels or known
    if labels is None:
        raise InvalidBundle(
            f"the network has {network.outputs} outputs, and the file does not name them: give their names in order "
            "(--labels A,B,...; nothing between two commas leaves an output out)"
        )
    if len(labels) != network.outputs:
        raise InvalidBundle(f"{len(labels)} labels are given, the network has {network.outputs} outputs")
    names = [name for name in ours(labels) if name]
    if not names or len(set(names)) != len(names):
        raise InvalidBundle(f"the labels name nothing, or one finding twice: {', '.join(names)}")
    return ours(labels)


def _points(thresholds: Sequence[float] | None, kept: Sequence[int], names: Sequence[str]) -> list[float] | None:
    """The published thresholds of the kept outputs, 0.5 for an Abnormal that is made of them; None without any."""
    if thresholds is None or not all(place < len(thresholds) for place in kept):
        return None
    points = [thresholds[place] for place in kept]
    if not all(math.isfinite(point) and 0 <= point <= 1 for point in points):
        return None
    return points if names[0] == ABNORMAL else [0.5, *points]


def _try_out(bundle: Bundle) -> None:
    """Raise `InvalidBundle` unless the network gives a number for each label of a film."""
    import torch  # noqa: PLC0415

    network = bundle.network()
    with torch.inference_mode():
        logits = network(torch.from_numpy(bundle.prepare(chest(1, rows=256, columns=224))[np.newaxis]))
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, len(bundle.outputs)) or not logits.isfinite().all():
        raise InvalidBundle(f"the network does not give {len(bundle.outputs)} numbers for a film")
