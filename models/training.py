"""`sangloc train`: a manifest to a bundle with calibration and thresholds. This module imports torch.

Weights are fitted on split `train`; calibration, thresholds and the percentiles of `models.outlier` come from
split `val`; no other split is read. `scores.csv` beside the bundle holds what it says of the films that it was not
fitted on: val, and the fold of train that was left out, if one was. `models.ablation` compares runs by it.
"""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.bundle import METADATA, WEIGHTS, load_bundle
from models.calibration import Calibration, choose_thresholds, fit_calibration
from models.data import Film, hard_targets, read_film, read_manifest
from models.description import describe, write_json
from models.distillation import load_teachers, taught
from models.fitting import Fitted, fit
from models.networks import with_outputs
from models.outlier import Outlier, features_of
from models.recipe import RECIPES, Callback, Progress, TrainConfig
from models.sampling import choose_findings, mixed_source_films, split_fold
from models.scoring import logits_of_films
from storage.errors import InvalidInput

__all__ = ["RECIPES", "SCORES", "VERSION", "Progress", "TrainConfig", "score", "train", "write_bundle"]

VERSION = "0.2.0"  # of the default model
SCORES = "scores.csv"
_FEWEST = 20  # films, below which `models.outlier` refuses
_ENOUGH = 1000  # training films for it: several for each feature

INTENDED_USE = "Research use. Not a medical device. Absence of a flag is not a negative."


def train(
    manifest: Path, out: Path, config: TrainConfig | None = None, *, progress: Callback | None = None,
    start: Path | None = None, teachers: Sequence[Path] = (), name: str = "chest_xray", version: str = VERSION,
) -> Path:  # fmt: skip
    """Train on the manifest and return the folder of the bundle, `out/bundle`.

    A run that was stopped continues from `out/checkpoint.pt` and ends in the same weights. `teachers` are bundles whose
    mean answer the network learns beside the labels, `start` is one of the same network whose weights it begins with.

    Raises:
        InvalidBundle: a teacher cannot be used.
        InvalidInput: the manifest or an image cannot be used, or `out` holds a run with other settings.
    """
    config, tell = config or TrainConfig(), progress or (lambda _: None)
    everyone, val = read_manifest(manifest, {"train"}), read_manifest(manifest, {"val"})
    findings = choose_findings(everyone, config.min_positives)
    films, held = split_fold(everyone, val, config.fold)
    elders = load_teachers(teachers, findings)
    begun = load_teachers([] if start is None else [start], findings)
    if begun and begun[0].network_def != with_outputs(config.network, len(findings)):
        raise InvalidInput(f"{start} is another network than the recipe's")
    config = replace(config, teachers=tuple(elder.weights_sha256 for elder in elders))
    config = replace(config, start=begun[0].weights_sha256 if begun else "")
    said = taught(
        elders, films, out / "taught.npz", lambda done, whole: tell(Progress(stage="teach", step=done, steps=whole))
    )
    state = fit(train=films, val=val, findings=findings, folder=out, config=config, tell=tell, taught=said,
                start=begun[0].network() if begun else None)  # fmt: skip
    folder = out / "bundle"
    if not state.first:
        return folder
    write_bundle(folder, state=state, findings=findings, config=config, films=films, name=name, version=version)
    calibrate(folder, val, tell)
    know(folder, films, val)
    score(folder, [*mixed_source_films(val), *held], out / SCORES)
    tell(Progress(stage="done", step=1, steps=1, epoch=config.epochs, epochs=config.epochs))
    return folder


def know(folder: Path, train: Sequence[Film], val: Sequence[Film]) -> None:
    """Fit what the bundle's network knows a film to look like (`models.outlier`); nothing with too few films."""
    if min(len(train), len(val)) < _FEWEST:
        return
    bundle = load_bundle(folder)
    sample = train[:: max(1, len(train) // _ENOUGH)]
    known, fresh = (features_of(bundle, map(read_film, films)) for films in (sample, val))
    Outlier.fit(known, fresh).save(folder, bundle.weights_sha256)


def score(folder: Path, films: Sequence[Film], file: Path) -> None:
    """The logit of Abnormal for each film, the mean of film and mirror image beside it, as a CSV file."""
    bundle = load_bundle(folder)
    plain, mirrored = (logits_of_films(bundle, films, mirrored=both)[:, 0] for both in (False, True))
    draft = file.with_suffix(".part")
    with draft.open("w", newline="", encoding="utf-8") as lines:
        table = csv.writer(lines)
        table.writerow(("image", "split", "logit", "logit_mirrored"))
        table.writerows(
            (film.image, film.split, f"{one:.5f}", f"{both:.5f}")
            for film, one, both in zip(films, plain, mirrored, strict=True)
        )
    draft.replace(file)


def write_bundle(
    folder: Path, *, state: Fitted, findings: Sequence[str], config: TrainConfig,
    films: Sequence[Film], name: str, version: str,
) -> None:  # fmt: skip
    """A MONAI bundle with the weights in half precision and no calibration yet."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    small = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    torch.save({key: value.contiguous() for key, value in small.items()}, folder / WEIGHTS)
    definition = with_outputs(config.network, len(findings))
    inference = {
        "imports": ["$import torch"],
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": definition,
        "network": "$@network_def.to(@device)",
    }
    write_json(folder / "configs" / "inference.json", inference)
    with (folder / WEIGHTS).open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    training = {
        "config": asdict(config),
        "films": len(films),
        "abnormal": sum(film.abnormal for film in films),
        "sources": sorted({film.source for film in films}),
        "wall_hours": round(state.seconds / 3600, 3),
        "finished": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
    ours = {"weights_sha256": digest, "training": training}
    write_json(folder / METADATA, _metadata(findings, config.size, name, version) | {"sangloc": ours})


def _metadata(findings: Sequence[str], size: int, name: str, version: str) -> dict[str, Any]:
    return describe(
        findings, size, name=name, version=version, made_by="trained by sangloc train",
        task="Sorting frontal chest radiographs: normal or abnormal, and findings",
        description="Logits of a MONAI network for one grey square; preprocessing is models.preprocess of sangloc",
        intended_use=INTENDED_USE,
    )  # fmt: skip


def calibrate(folder: Path, val: Sequence[Film], tell: Callback) -> None:
    """Choose calibration, thresholds and operating point on the val films and write them into the bundle.

    Only sources that have both classes are used (`mixed_source_films`).
    """
    bundle, films = load_bundle(folder), mixed_source_films(val)
    logits = logits_of_films(bundle, films, lambda done: tell(Progress(stage="calibrate", step=done, steps=len(films))))
    labels = hard_targets(films, bundle.findings)
    calibration = fit_calibration(logits, labels)
    chosen = [
        choose_thresholds(column, label) for column, label in zip(calibration.apply(logits).T, labels.T, strict=True)
    ]
    points = {name: [point[name] for point in chosen] for name in chosen[0]}
    _amend(folder, calibration, points, films, labels)


def _amend(
    folder: Path, calibration: Calibration, points: dict[str, list[float]], films: Sequence[Film],
    labels: npt.NDArray[np.float32],
) -> None:  # fmt: skip
    metadata = json.loads((folder / METADATA).read_text())
    metadata["sangloc"] |= {
        "calibration": calibration.to_json(),
        "operating_points": points,
        "operating_point": "balanced",
        "calibrated_on": {
            "sources": sorted({film.source for film in films}),
            "films": np.isfinite(labels).sum(axis=0).tolist(),
            "positives": (labels == 1).sum(axis=0).tolist(),
        },
    }
    write_json(folder / METADATA, metadata)
