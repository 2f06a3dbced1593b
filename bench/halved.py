"""Whether a film decoded at a fraction of its size (JPEG 2000) is judged as when it is decoded whole.

    python -m bench.halved --manifest ../shared/cxr/manifest.csv

The films of split val are enlarged to 2,048 px with 12 bits and a detector's noise, as no large ones are at hand, and
stored raw and as JPEG 2000. Both go the worker's way: decoded, made small, scored by the bundle's network. That takes
some minutes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from bench.triage import stored
from inference.pixels import read_pixels
from models.bundle import DEFAULT_BUNDLE, load_bundle
from models.data import read_film, read_manifest
from models.fitting import logits_of
from models.metrics import auroc

_SIDE, _BITS, _NOISE = 2048, 12, 8.0  # px; stored; grey levels of 4,096, standard deviation


def _enlarged(film: npt.NDArray[np.generic], rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    scale = _SIDE / max(film.shape)
    large = cv2.resize(film.astype(np.float32) * 16, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    noisy = np.asarray(large + rng.normal(0, _NOISE, large.shape))
    return np.asarray(np.clip(noisy, 0, 2**_BITS - 1), np.uint16)


def main() -> None:
    """Print AUROC of Abnormal either way, and by how much the probabilities differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE)
    options = parser.parse_args()
    bundle, rng = load_bundle(options.bundle), np.random.default_rng(0)
    films = read_manifest(options.manifest, {"val"})
    inputs: dict[str, list[npt.NDArray[np.float32]]] = {"whole": [], "halved": []}
    for film in films:
        large = _enlarged(read_film(film), rng)
        for way, kind in (("whole", "raw"), ("halved", "j2k")):
            inputs[way].append(bundle.prepare(read_pixels(*stored(large, kind))))
    net, labels = bundle.network(), np.array([film.abnormal for film in films])
    found = {way: 1 / (1 + np.exp(-logits_of(net, np.stack(each))[:, 0])) for way, each in inputs.items()}
    areas = {way: round(float(auroc(each, labels)), 4) for way, each in found.items()}
    apart = np.abs(found["whole"] - found["halved"])
    print(f"AUROC on {len(films)} films: whole {areas['whole']:.4f}, halved {areas['halved']:.4f}")
    print(f"probabilities apart: median {np.median(apart):.4f}, largest {apart.max():.4f}")
    print(json.dumps({"films": len(films), **areas, "largest": round(float(apart.max()), 4)}))


if __name__ == "__main__":
    main()
