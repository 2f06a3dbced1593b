"""Training, whole and small: films to a bundle that can be loaded, the same weights with or without an interruption."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from tiny_models import NETWORK, write_manifest

from models.augment import augment
from models.bundle import load_bundle
from models.data import read_film, read_manifest
from models.evaluation import evaluate
from models.preprocess import to_work
from models.recipe import Progress, TrainConfig
from models.training import train
from storage.errors import InvalidInput

CONFIG = TrainConfig(
    network=NETWORK, stages=((2, 64), (1, 96)), epoch_films=24, batch=8, learning_rate=5e-3, min_positives=4, bf16=False
)


class InterruptedRunError(Exception):
    """The run was killed."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_manifest(tmp_path_factory.mktemp("films"), {"train": 24, "val": 20, "test": 20})


@pytest.fixture(scope="module")
def trained(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(manifest, tmp_path_factory.mktemp("run"), CONFIG)


def test_a_trained_bundle_can_be_loaded_and_judged(manifest: Path, trained: Path) -> None:
    model = load_bundle(trained)
    assert model.findings == ("Abnormal", "Infiltration")
    assert model.input_size == 96
    assert set(model.operating_points) == {"sensitive", "balanced", "specific"}
    report = evaluate(trained, manifest, resamples=10)
    assert {figure.split for figure in report.figures} == {"test"}
    metadata = json.loads((trained / "configs" / "metadata.json").read_text())
    assert metadata["sangloc"]["training"]["films"] == 24
    assert metadata["sangloc"]["calibrated_on"]["films"][0] == 20


def test_an_interrupted_run_ends_in_the_same_weights(manifest: Path, trained: Path, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == "train" and progress.epoch == 2:
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        train(manifest, tmp_path, CONFIG, progress=stop)
    assert len(json.loads((tmp_path / "history.json").read_text())) == 1
    (tmp_path / "checkpoint.part").write_bytes(b"half a checkpoint, killed while writing")
    told = list[Progress]()
    bundle = train(manifest, tmp_path, CONFIG, progress=told.append)
    assert load_bundle(bundle).weights_sha256 == load_bundle(trained).weights_sha256
    assert load_bundle(bundle).calibration == load_bundle(trained).calibration
    assert next(progress for progress in told if progress.stage == "train").epoch == 2
    steps = [progress.step for progress in told if progress.stage == "train"]
    assert steps == sorted(steps)
    assert told[-1].stage == "done"
    assert len(json.loads((tmp_path / "history.json").read_text())) == 3


def test_another_seed_gives_other_weights(manifest: Path, trained: Path, tmp_path: Path) -> None:
    other = train(manifest, tmp_path, replace(CONFIG, seed=21))
    assert load_bundle(other).weights_sha256 != load_bundle(trained).weights_sha256


def test_a_folder_with_another_run_is_not_continued(manifest: Path, trained: Path) -> None:
    with pytest.raises(InvalidInput, match="other settings or films"):
        train(manifest, trained.parent, replace(CONFIG, seed=22))


def test_training_leaves_the_process_as_it_was(trained: Path) -> None:
    assert load_bundle(trained).findings
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_short_training_tells_unseen_phantoms_with_an_opacity_from_those_without(
    manifest: Path, tmp_path: Path
) -> None:
    train(manifest, tmp_path, replace(CONFIG, stages=((10, 64),), epoch_films=160, learning_rate=3e-2))
    assert json.loads((tmp_path / "history.json").read_text())[-1]["val_auroc"] > 0.9


def test_augmentation_changes_a_film_but_not_for_the_same_seed(manifest: Path) -> None:
    work = to_work(read_film(read_manifest(manifest, {"train"})[0]))
    before = work.copy()
    one, again, other = (augment(work, 96, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == (1, 96, 96)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert np.array_equal(work, before)
    assert all(np.isfinite(augment(work, 64, np.random.default_rng(seed))).all() for seed in range(60))


def test_fewer_epochs_keep_the_stages_shares() -> None:
    config = TrainConfig(stages=((30, 128), (30, 192)))
    assert config.with_epochs(10).stages == ((5, 128), (5, 192))
    assert config.with_epochs(3).epochs == 3
    assert config.with_epochs(1).size == 192 or config.with_epochs(1).stages == ((1, 128),)
    assert [config.size_at(epoch) for epoch in (0, 29, 30, 59)] == [128, 128, 192, 192]
