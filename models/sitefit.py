"""Calibration and thresholds of a model for one site, fitted on the site's own labelled films. Imports torch.

A threshold belongs to a model *and* to the films of a site: another version, or another hospital, moves both
sensitivity and specificity at the same number, whatever the AUROC says. What is fitted here is kept beside the model
(`storage.models`) and laid over its bundle with `Bundle.refitted`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.bundle import METADATA, Bundle
from models.calibration import choose_thresholds, fit_calibration
from models.data import ABNORMAL, Film, hard_targets, read_manifest
from models.scoring import logits_of_films
from storage.errors import InvalidInput

__all__ = ["LEAST", "fit_site", "labelled_films", "write_refitted"]

LEAST = 8  # films of each class, below which neither a threshold nor a figure says anything


def labelled_films(manifest: Path, splits: Sequence[str]) -> list[Film]:
    """The films of these splits, enough of them normal and enough abnormal.

    Raises:
        InvalidInput: the manifest cannot be read, or holds (nearly) one class only.
    """
    films = read_manifest(manifest, set(splits))
    abnormal = sum(film.abnormal for film in films)
    if min(abnormal, len(films) - abnormal) < LEAST:
        raise InvalidInput(
            f"split {', '.join(splits)} of {manifest.name} has {abnormal} abnormal and {len(films) - abnormal} normal "
            f"films; at least {LEAST} of each are needed to know anything of a model at a site"
        )
    return films


def fit_site(bundle: Bundle, films: Sequence[Film], done: Callable[[int], None] | None = None) -> dict[str, Any]:
    """What `Bundle.refitted` takes: calibration of each output, and the thresholds of every operating point.

    Args:
        bundle: the model; what was fitted before does not matter.
        films: as `labelled_films` gives them.
        done: called with the number of films finished so far.

    Raises:
        InvalidBundle: the weights cannot be used.
        InvalidInput: an image cannot be read.
    """
    logits = logits_of_films(bundle, films, done)
    labels = hard_targets(films, bundle.outputs).astype(np.float64)
    fit: dict[str, Any] = {"calibration": fit_calibration(logits, labels).to_json()}
    if bundle.outputs[0] != ABNORMAL:
        fit["abnormal_calibration"] = _fit_abnormal(bundle.refitted(fit), logits, films)
    points = _points(bundle.refitted(fit).probabilities(logits), hard_targets(films, bundle.findings))
    return fit | {"operating_points": points, "operating_point": "balanced"}


def write_refitted(bundle: Bundle, fit: Mapping[str, Any], folder: Path) -> Path:
    """A copy of the bundle with this fit, for `models.evaluation`; the folder.

    Raises:
        InvalidBundle: the fit is not for this network.
    """
    bundle.refitted(fit)
    shutil.copytree(bundle.path, folder)
    metadata = json.loads((folder / METADATA).read_text("utf-8"))
    key = metadata.get("sangloc", {"weights_sha256": bundle.weights_sha256})
    metadata["sangloc"] = {**key, **fit}
    (folder / METADATA).write_text(json.dumps(metadata))
    return folder


def _fit_abnormal(bundle: Bundle, logits: npt.NDArray[np.floating], films: Sequence[Film]) -> dict[str, object]:
    greatest = np.clip(bundle.probabilities(logits)[:, :1], 1e-9, 1 - 1e-9)
    abnormal = np.array([[film.abnormal] for film in films], np.float64)
    return fit_calibration(np.log(greatest / (1 - greatest)), abnormal).to_json()


def _points(probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.float32]) -> dict[str, list[float]]:
    chosen = [choose_thresholds(column, label) for column, label in zip(probabilities.T, labels.T, strict=True)]
    return {name: [point[name] for point in chosen] for name in chosen[0]}
