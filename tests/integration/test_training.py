"""Training, whole and small: films to a bundle that can be loaded, the same weights with or without an interruption."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from tiny_models import NETWORK, write_foreign_bundle, write_manifest

from models.ablation import read_run
from models.augment import augment
from models.bundle import load_bundle
from models.data import read_film, read_manifest
from models.distillation import load_teachers, taught
from models.evaluation import evaluate
from models.outlier import features_of, load_outlier
from models.preprocess import to_work
from models.recipe import Progress, TrainConfig
from models.sampling import split_fold
from models.scoring import logits_of_films
from models.training import train
from storage.errors import InvalidInput

CONFIG = TrainConfig(
    network=NETWORK, stages=((2, 64), (1, 96)), epoch_films=24, batch=8, learning_rate=5e-3, min_positives=4, bf16=False
)
SCRIPT = f"""
import os, signal, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from models.recipe import TrainConfig
from models.sampling import split_fold
from models.scoring import logits_of_films
from models.training import train

def told(progress):
    if "killed" in sys.argv and (progress.stage, progress.epoch, progress.step % 3) == ("train", 3, 0):
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]), {CONFIG!r}, progress=told)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "training_script.py"
    file.write_text(SCRIPT)
    return file


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


def test_a_run_killed_by_the_kernel_ends_in_the_same_weights(
    manifest: Path, trained: Path, tmp_path: Path, script: Path
) -> None:
    out = tmp_path / "run"
    killed = subprocess.run([sys.executable, script, manifest, out, "killed"], check=False, timeout=200)
    assert killed.returncode == -signal.SIGKILL
    assert len(json.loads((out / "history.json").read_text())) == 2
    assert not (out / "bundle").exists()
    assert load_bundle(train(manifest, out, CONFIG)).weights_sha256 == load_bundle(trained).weights_sha256


def test_two_processes_of_torchrun_make_one_bundle(manifest: Path, trained: Path, tmp_path: Path, script: Path) -> None:
    out = tmp_path / "run"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*launch, script, manifest, out], check=True, timeout=250)
    model = load_bundle(out / "bundle")
    assert model.findings == load_bundle(trained).findings
    assert model.weights_sha256 != load_bundle(trained).weights_sha256
    assert all(np.isfinite(entry["loss"]) for entry in json.loads((out / "history.json").read_text()))
    with pytest.raises(InvalidInput, match="other settings"):  # one process would see other batches
        train(manifest, out, CONFIG)


def test_what_is_left_out_is_judged_and_what_is_known_is_kept(manifest: Path, tmp_path: Path) -> None:
    bundle = train(manifest, tmp_path, replace(CONFIG, fold=1, stages=((1, 64),)))
    held = {film.image for film in split_fold(*(read_manifest(manifest, {s}) for s in ("train", "val")), 1)[1]}
    with (tmp_path / "scores.csv").open(newline="") as lines:
        scores = list(csv.DictReader(lines))
    assert {row["image"] for row in scores if row["split"] == "train"} == held != set()
    assert sum(row["split"] == "val" for row in scores) == 20
    training = json.loads((bundle / "configs" / "metadata.json").read_text())["sangloc"]["training"]
    assert training["films"] == 24 - len(held)
    assert 0 < training["wall_hours"] < 1 or training["wall_hours"] == 0.0
    assert read_run(tmp_path).fold == 1


def test_a_bundle_knows_how_far_a_film_is_from_its_own(manifest: Path, trained: Path) -> None:
    model, films = load_bundle(trained), read_manifest(manifest, {"val"})
    outlier = load_outlier(model)
    assert outlier is not None
    scores = outlier.score(features_of(model, map(read_film, films)))
    assert scores.min() >= 0
    assert scores.max() == pytest.approx(100, abs=0.5)


def test_a_pupil_learns_from_its_teachers(manifest: Path, trained: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, distil=1.0, stages=((1, 64),))
    pupil = train(manifest, tmp_path / "pupil", config, teachers=[trained, trained])
    alone = train(manifest, tmp_path / "alone", config)
    assert load_bundle(pupil).weights_sha256 != load_bundle(alone).weights_sha256
    training = json.loads((pupil / "configs" / "metadata.json").read_text())["sangloc"]["training"]
    assert training["config"]["teachers"] == [load_bundle(trained).weights_sha256] * 2
    (tmp_path / "films").mkdir()
    films = read_manifest(write_manifest(tmp_path / "films", {"val": 6}), {"val"})
    teachers = load_teachers([trained], load_bundle(trained).findings)
    said = taught(teachers, films, tmp_path / "taught.npz")
    logits = logits_of_films(teachers[0], films)
    assert said == pytest.approx(1 / (1 + np.exp(-logits)), abs=0.01)  # bfloat16
    films[0].path.unlink()
    assert np.array_equal(taught(teachers, films, tmp_path / "taught.npz"), said)  # as kept: no film is read
    with pytest.raises(InvalidInput, match="is not an image"):
        taught(teachers * 2, films, tmp_path / "taught.npz")


def test_a_run_may_begin_with_the_weights_of_another(manifest: Path, trained: Path, tmp_path: Path) -> None:
    still = replace(CONFIG, learning_rate=0.0, weight_decay=0.0, stages=((1, 96),), traits=0.5)
    begun = load_bundle(train(manifest, tmp_path / "still", still, start=trained))
    one, other = (model.network().state_dict() for model in (load_bundle(trained), begun))
    learnt = [name for name, value in one.items() if value.is_floating_point() and "running" not in name]
    assert all(torch.allclose(one[name], other[name], atol=1e-3) for name in learnt)
    training = json.loads((begun.path / "configs" / "metadata.json").read_text())["sangloc"]["training"]
    assert training["config"]["start"] == load_bundle(trained).weights_sha256
    with pytest.raises(InvalidInput, match="another network"):
        train(manifest, tmp_path / "wide", replace(still, network=NETWORK | {"conv1_t_size": 5}), start=trained)


def test_a_teacher_of_other_findings_is_refused(manifest: Path, tmp_path: Path) -> None:
    stranger = write_foreign_bundle(tmp_path / "stranger", ["Abnormal", "Mass"])
    with pytest.raises(InvalidInput, match="other findings: Abnormal, Mass"):
        train(manifest, tmp_path / "run", CONFIG, teachers=[stranger])


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
