"""How far an image is from the films that a model was fitted on: Mahalanobis distance of its pooled features.

One Gaussian is laid over the features of the training films (Lee et al., NeurIPS 2018, without classes: the findings
overlap). Features are brought to one scale, and their correlation is shrunk towards the identity (Ledoit and Wolf, J.
Multivariate Anal. 2004), as there are few films for so many features. The distance is told as a percentile of the
distances of validation films: 50 is an ordinary film, 100 is as far as the farthest of them, 150 half as far again.

    BUNDLE/models/outlier.npz    mean [c], precision [c, c], distances [101], digest of the weights that it belongs to

numpy only; `features_of` takes a network and imports torch.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from models.bundle import Bundle
from models.features import split_head
from storage.errors import InvalidBundle, InvalidInput

__all__ = ["OUTLIER", "Outlier", "features_of", "load_outlier"]

OUTLIER = Path("models/outlier.npz")
Floats = npt.NDArray[np.floating]
_FEWEST = 20  # films, to fit anything or to speak of percentiles
_DEAD = 0.01  # of the median deviation; a feature that hardly ever moves must not decide alone
_BATCH = 32


@dataclass(frozen=True, slots=True)
class Outlier:
    """A fitted distance."""

    mean: npt.NDArray[np.float32]  # [c]
    precision: npt.NDArray[np.float32]  # [c, c], the inverse of the covariance whose correlation was shrunk
    distances: npt.NDArray[np.float32]  # [101], of validation films at the percentiles 0 to 100, rising

    @classmethod
    def fit(cls, train: Floats, val: Floats) -> Self:
        """From pooled features [films, c] of training films and of validation films that the model is meant for.

        Raises:
            InvalidInput: too few films, or features that are no numbers.
        """
        for name, films in (("training", train), ("validation", val)):
            if len(films) < _FEWEST:
                raise InvalidInput(f"{len(films)} {name} films are too few for an outlier score: {_FEWEST} are needed")
            if not np.isfinite(films).all():
                raise InvalidInput(f"the features of the {name} films are not all numbers")
        mean = train.mean(axis=0, dtype=np.float64)
        spread = train.std(axis=0, dtype=np.float64)
        spread = np.maximum(spread, max(_DEAD * float(np.median(spread)), 1e-12))
        precision = np.linalg.inv(_shrunk((train - mean) / spread)) / np.outer(spread, spread)
        distances = np.percentile(_distance(val, mean, precision), np.arange(101))
        return cls(mean.astype(np.float32), precision.astype(np.float32), distances.astype(np.float32))

    def score(self, pooled: Floats) -> npt.NDArray[np.float32]:
        """Percentiles [n] of pooled features [n, c], above 100 beyond all known films; NaN for what is no number."""
        distance, farthest = _distance(pooled, self.mean, self.precision), self.distances[-1]
        rank = np.interp(distance, self.distances, np.arange(101))
        return np.where(distance > farthest, 100 * distance / farthest, rank).astype(np.float32)

    def save(self, bundle: Path, weights_sha256: str) -> None:
        """Write the file of a bundle whose weights have this digest."""
        weights = np.array(weights_sha256)
        np.savez(bundle / OUTLIER, weights=weights, mean=self.mean, precision=self.precision, distances=self.distances)


def load_outlier(bundle: Bundle) -> Outlier | None:
    """What stands in the bundle's file, None where it has none (a model from elsewhere).

    Raises:
        InvalidBundle: the file cannot be read, belongs to other weights, or does not hold a distance in finite numbers.
    """
    file = bundle.path / OUTLIER
    if not file.exists():
        return None
    try:
        with np.load(BytesIO(file.read_bytes())) as stored:  # never unpickles
            weights = str(stored["weights"])
            outlier = Outlier(*(np.asarray(stored[name], np.float32) for name in ("mean", "precision", "distances")))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidBundle(f"{file} does not hold an outlier score: {error}") from error
    if weights != bundle.weights_sha256:
        raise InvalidBundle(
            f"{file} was fitted for weights {weights[:16]}..., these are {bundle.weights_sha256[:16]}..."
        )
    c = outlier.mean.size
    if outlier.mean.shape != (c,) or outlier.precision.shape != (c, c) or outlier.distances.shape != (101,):
        raise InvalidBundle(f"{file} does not hold a mean, a precision and 101 distances that fit each other")
    if not all(np.isfinite(part).all() for part in (outlier.mean, outlier.precision, outlier.distances)):
        raise InvalidBundle(f"{file} holds values that are not finite numbers")
    if outlier.distances[-1] <= 0 or (np.diff(outlier.distances) < 0).any():
        raise InvalidBundle(f"{file} holds distances that do not rise")
    return outlier


def features_of(bundle: Bundle, films: Iterable[npt.NDArray[np.generic]]) -> npt.NDArray[np.float32]:
    """Pooled features [films, c] of grey films [rows, columns], prepared as at inference, in float32.

    Raises:
        InvalidBundle: the network cannot be built, or has no feature map before its head.
        NotScorable: an image is no film.
    """
    import torch  # noqa: PLC0415

    split = split_head(bundle.network(), bundle.network_def)
    if split is None:
        raise InvalidBundle(f"the network of {bundle.name} has no feature map before a linear head")
    given, parts = iter(films), list[npt.NDArray[np.float32]]()
    while batch := [bundle.prepare(film) for film in islice(given, _BATCH)]:
        with torch.inference_mode():
            parts.append(split.body(torch.from_numpy(np.stack(batch))).mean((2, 3)).numpy())
    return np.concatenate(parts)


def _distance(pooled: Floats, mean: Floats, precision: Floats) -> npt.NDArray[np.float64]:
    apart = pooled.astype(np.float64) - mean
    return np.asarray(np.sqrt(np.maximum(((apart @ precision) * apart).sum(axis=1), 0)))


def _shrunk(centred: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ledoit and Wolf's covariance [c, c] of centred samples [n, c]."""
    n, c = centred.shape
    covariance = centred.T @ centred / n
    scale = np.trace(covariance) / c
    apart = float(((covariance - scale * np.eye(c)) ** 2).sum())
    noise = float(((centred**2).T @ centred**2 / n - covariance**2).sum()) / n
    share = min(noise / apart, 1.0) if apart > 0 else 1.0
    return np.asarray((1 - share) * covariance + (share * scale + 1e-12) * np.eye(c))
