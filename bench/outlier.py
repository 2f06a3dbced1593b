"""How well the outlier score of a bundle tells what is no frontal chest film of an adult: AUROC against split val.

    python -m bench.outlier --manifest ../shared/cxr/manifest.csv [--fit]

Against the films of split val, of the sources with adults' films as they come: the same films turned, inverted, cropped
or drowned in noise, children (split pediatric), drawn phantoms and plain noise. `--fit` fits the score anew on splits
train and val and writes it into the bundle (`sangloc train` does so with the bundle that it writes).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from models.bundle import DEFAULT_BUNDLE, load_bundle
from models.data import Film, read_film, read_manifest
from models.metrics import auroc
from models.outlier import Outlier, features_of, load_outlier
from models.phantom import chest, lateral

Grey = npt.NDArray[np.generic]
_NOISE = 60.0  # grey levels of 255, standard deviation


def _cropped(film: Grey) -> Grey:
    rows, columns = film.shape
    return film[: rows // 2, : columns // 2]


def _noisy(film: Grey) -> Grey:
    noise = np.random.default_rng(int(film.sum()) % 2**32).normal(0, _NOISE, film.shape)
    return np.clip(film + noise, 0, 255).astype(np.uint8)


CHANGES: dict[str, Callable[[Grey], Grey]] = {
    "turned by 90 degrees": lambda film: np.ascontiguousarray(np.rot90(film)),
    "turned by 180 degrees": lambda film: np.ascontiguousarray(film[::-1, ::-1]),
    "inverted": lambda film: 255 - film,
    "a quarter of the film": _cropped,
    "drowned in noise": _noisy,
    "blurred (1/16 of the detail)": lambda film: np.asarray(cv2.GaussianBlur(film, (0, 0), max(film.shape) / 32)),
}


def _read(films: Sequence[Film], change: Callable[[Grey], Grey] = lambda film: film) -> Iterator[Grey]:
    return (change(read_film(film)) for film in films)


def main() -> None:
    """Fit if asked, then print one line for each kind of image, and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--films", type=int, default=200, help="validation films, at most, for each change")
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    val = read_manifest(options.manifest, {"val"})
    known = features_of(bundle, _read(val))
    if options.fit:
        train = features_of(bundle, _read(read_manifest(options.manifest, {"train"})))
        Outlier.fit(train, known).save(bundle.path, bundle.weights_sha256)
    outlier = load_outlier(bundle)
    if outlier is None:
        raise SystemExit(f"{bundle.path} has no outlier score: --fit makes one")
    rng = np.random.default_rng(0)
    some = [val[i] for i in sorted(rng.permutation(len(val))[: options.films])]
    others: dict[str, Iterator[Grey]] = {name: _read(some, change) for name, change in CHANGES.items()}
    others["children"] = _read(read_manifest(options.manifest, {"pediatric"}))
    others["lateral phantoms"] = (lateral(seed, rows=512, columns=448) for seed in range(60))
    others["frontal phantoms"] = (chest(seed, rows=512, columns=448) for seed in range(60))
    others["plain noise"] = (rng.integers(0, 256, (256, 256), np.uint8) for _ in range(60))
    inside, result = outlier.score(known), {}
    for name, films in others.items():
        scores = outlier.score(features_of(bundle, films))
        labels = np.r_[np.zeros(len(inside)), np.ones(len(scores))]
        area = auroc(np.r_[inside, scores], labels)
        result[name] = round(float(area), 3)
        print(f"{name:30} {len(scores):4} images, AUROC {area:.3f}, median score {np.median(scores):.0f}")
    print(json.dumps({"bundle": f"{bundle.name} {bundle.version}", "val": len(inside), "auroc": result}))


if __name__ == "__main__":
    main()
