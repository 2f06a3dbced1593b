"""Maps in closed form against MONAI's GradCAM++: do they agree, what do they cost, do they depend on the weights.

    python -m bench.maps --manifest ../shared/cxr/manifest.csv

On abnormal films of split val: correlation of both maps of 'Abnormal' over places, milliseconds for one image, and the
sanity check of Adebayo et al. (NeurIPS 2018): with random weights in the head, or in head and last layers, a map must
become another one. The pointing game (Zhang et al., IJCV 2018) needs boxes, which ../shared/cxr does not have; so
it is played with lesions that are drawn on normal films (`models.lesions`): is the map's peak within a sixteenth of the
film of what was drawn? Drawn lesions are not disease, and a network may have been trained on such.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from monai.visualize import GradCAMpp

from models.bundle import DEFAULT_BUNDLE, Bundle, load_bundle
from models.data import ABNORMAL, read_film, read_manifest
from models.features import Split, split_head
from models.lesions import LESIONS, draw_lesion
from models.maps import activation
from models.preprocess import to_work

Map = npt.NDArray[np.float32]
Explain = Callable[[npt.NDArray[np.float32], int], Map]
_NEAR = 1 / 16  # of the film's side


def _same(maps: Any) -> Any:
    return maps


class Maps:
    """The maps of one network by both methods, as squares of `size` places."""

    def __init__(self, network: torch.nn.Module, bundle: Bundle) -> None:
        split = split_head(network, bundle.network_def)
        assert split is not None
        self._split: Split = split
        self._head = split.numbers()
        whole = torch.nn.Sequential(split.body, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), split.head).eval()
        self._cam = GradCAMpp(whole, target_layers="0", upsampler=lambda _: _same, postprocessing=_same)
        self._size = bundle.input_size

    def closed(self, image: npt.NDArray[np.float32], k: int) -> Map:
        """`models.maps`."""
        with torch.inference_mode():
            features = self._split.body(torch.from_numpy(image[np.newaxis]))[0].numpy()
        return self._fine(activation(features, self._head.weights[[k]], self._head.bias[[k]])[0])

    def gradient(self, image: npt.NDArray[np.float32], k: int) -> Map:
        """MONAI's GradCAM++ of the same feature map."""
        found = self._cam(torch.from_numpy(image[np.newaxis]).requires_grad_(), class_idx=k)
        return self._fine(np.asarray(found.detach()[0, 0], np.float32))

    def _fine(self, coarse: Map) -> Map:
        return np.asarray(cv2.resize(coarse, (self._size, self._size), interpolation=cv2.INTER_LINEAR))


def _randomised(network: torch.nn.Module, bundle: Bundle, *, body: bool) -> torch.nn.Module:
    """A copy with its head drawn anew, and with `body` also the last third of its convolutions."""
    other = copy.deepcopy(network)
    split = split_head(other, bundle.network_def)
    assert split is not None
    split.head.reset_parameters()
    layers = [layer for layer in other.modules() if isinstance(layer, torch.nn.Conv2d)]
    for layer in layers[2 * len(layers) // 3 :] if body else []:
        layer.reset_parameters()
    return other.eval()


def _correlation(one: Map, two: Map) -> float:
    if one.std() < 1e-9 or two.std() < 1e-9:  # GradCAM++ may be zero everywhere
        return 0.0
    return float(np.corrcoef(one.ravel(), two.ravel())[0, 1])


def _milliseconds(explain: Explain, images: list[npt.NDArray[np.float32]], k: int) -> float:
    begun = time.perf_counter()
    for image in images:
        explain(image, k)
    return (time.perf_counter() - begun) * 1000 / len(images)


def _points(explain: Explain, bundle: Bundle, works: list[npt.NDArray[np.uint8]]) -> dict[str, float]:
    """Share of drawn lesions that the peak of the map of 'Abnormal' is at, by kind."""
    rng, hits = np.random.default_rng(7), dict[str, float]()
    near = np.ones((2 * int(_NEAR * bundle.input_size) + 1,) * 2, np.uint8)
    k = bundle.outputs.index(ABNORMAL)
    for kind in LESIONS:
        found = []
        for work in works:
            drawn = draw_lesion(work, kind, rng)
            change = cv2.resize(cv2.absdiff(drawn, work), (bundle.input_size,) * 2, interpolation=cv2.INTER_AREA)
            there = cv2.dilate((change > max(4, 0.3 * change.max())).astype(np.uint8), near)
            peak = int(explain(bundle.prepare(drawn), k).argmax())
            found.append(float(there.ravel()[peak]))
        hits[kind] = round(float(np.mean(found)), 2)
    return hits


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE)
    parser.add_argument("--films", type=int, default=60)
    options = parser.parse_args()
    torch.manual_seed(0)
    bundle = load_bundle(options.bundle)
    network, k = bundle.network(), bundle.outputs.index(ABNORMAL)
    val = [film for film in read_manifest(options.manifest, {"val"}) if film.source == "nih"]
    abnormal = [bundle.prepare(read_film(film)) for film in val if film.abnormal][: options.films]
    normal = [to_work(read_film(film)) for film in val if not film.abnormal][: options.films]
    maps = Maps(network, bundle)
    closed = [maps.closed(image, k) for image in abnormal]

    def against(explain: Explain) -> float:
        each = [_correlation(one, explain(image, k)) for one, image in zip(closed, abnormal, strict=True)]
        return round(float(np.median(each)), 3)

    blank = Maps(_randomised(network, bundle, body=True), bundle)
    centre = np.zeros((bundle.input_size,) * 2, np.float32)
    centre[bundle.input_size // 2, bundle.input_size // 2] = 1
    result: dict[str, Any] = {
        "bundle": f"{bundle.name} {bundle.version}",
        "films": len(abnormal),
        "correlation": against(maps.gradient),
        "ms": {
            "network and map in closed form": round(_milliseconds(maps.closed, abnormal, k), 1),
            "GradCAM++": round(_milliseconds(maps.gradient, abnormal, k), 1),
        },
        "correlation after randomising": {
            "head": against(Maps(_randomised(network, bundle, body=False), bundle).closed),
            "head and last third": against(blank.closed),
            "head and last third, GradCAM++ against its own": round(float(np.median([
                _correlation(maps.gradient(image, k), blank.gradient(image, k)) for image in abnormal
            ])), 3),
        },
        "pointing game, drawn lesions": {
            "closed form": _points(maps.closed, bundle, normal),
            "GradCAM++": _points(maps.gradient, bundle, normal),
            "the middle of the film": _points(lambda *_: centre, bundle, normal),
        },
    }  # fmt: skip
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
