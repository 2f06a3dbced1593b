"""Steps of training are compared on the same films, which none of them was fitted on."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from tiny_models import COLUMNS, MINED, write_foreign_bundle, write_rows

from models.ablation import compare, read_rows, read_run
from models.ablation import write_rows as keep_rows
from storage.errors import InvalidInput

VAL, HELD = [f"v{i}" for i in range(20)], [f"h{i}" for i in range(12)]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows: list[tuple[object, ...]] = [
        (image, "nih", "val" if image in VAL else "train", image, int(image[1:]) % 2, "", "", MINED)
        for image in VAL + HELD
    ]
    return write_rows(tmp_path, rows, COLUMNS)


def _run(folder: Path, recipe: str, images: list[str], noise: float, teachers: tuple[str, ...] = ()) -> Path:
    """A finished run whose logits are the labels and some noise; its weights have its recipe's name for a digest."""
    rng = np.random.default_rng(len(recipe))
    (folder / "bundle" / "configs").mkdir(parents=True)
    training = {"config": {"recipe": recipe, "fold": 0, "teachers": teachers}, "wall_hours": 0.5}
    ours = {"training": training, "weights_sha256": recipe}
    (folder / "bundle" / "configs" / "metadata.json").write_text(json.dumps({"sangloc": ours}))
    with (folder / "scores.csv").open("w", newline="") as lines:
        table = csv.writer(lines)
        table.writerow(("image", "split", "logit", "logit_mirrored"))
        for image in images:
            logit = int(image[1:]) % 2 + noise * rng.normal()
            table.writerow((image, "", logit, int(image[1:]) % 2))
    return folder


def test_rows_are_measured_on_the_films_of_the_first(tmp_path: Path, manifest: Path) -> None:
    runs = [
        read_run(_run(tmp_path / "a", "plain", VAL + HELD, 2.0)),
        read_run(_run(tmp_path / "b", "sources", VAL + HELD, 0.0)),
        read_run(_run(tmp_path / "c", "distilled", VAL, 3.0, ("sources", "plain"))),
    ]
    plain, sources, mean, mirrored, pupil = compare(runs, manifest, resamples=200)
    names = ["`plain`", "`sources`", "mean of `plain`, `sources`", "the same, each film and its mirror image"]
    assert [row.step for row in (plain, sources, mean, mirrored, pupil)] == [*names, "`distilled`"]
    assert plain.gain == (0, 0, 0)
    assert sources.val == sources.held == (1, 1, 1)
    assert plain.held is not None
    assert plain.held[1] <= plain.held[0] <= plain.held[2]
    assert sources.gain[0] == pytest.approx(1 - plain.held[0])
    assert (mean.nets, mean.hours) == (2, 1.0)
    assert mirrored.held == (1, 1, 1)
    assert pupil.held is None
    assert pupil.gain[0] == pytest.approx(pupil.val[0] - plain.val[0])


def test_the_mean_of_several_seeds_stands_last(tmp_path: Path, manifest: Path) -> None:
    folders = [("a", "plain", 1.0), ("b", "member", 1.0), ("c", "member", 0.0), ("d", "mixup", 1.0)]
    rows = compare([read_run(_run(tmp_path / at, recipe, VAL, off)) for at, recipe, off in folders], manifest, 20)
    assert [row.step for row in rows] == ["`plain`", "`member`", "`member`", "`mixup`", "mean of 2 `member`"]
    assert (rows[-1].nets, rows[-1].hours) == (2, 1.0)
    assert rows[1].val[0] < rows[-1].val[0] <= rows[2].val[0] == 1


def test_a_bundle_keeps_its_rows(tmp_path: Path, manifest: Path) -> None:
    rows = compare([read_run(_run(tmp_path / "a", "plain", VAL + HELD, 1.0))], manifest, resamples=20)
    bundle = write_foreign_bundle(tmp_path / "bundle", ["Abnormal"])
    assert read_rows(bundle) == []
    keep_rows(rows, bundle)
    assert read_rows(bundle) == rows


def test_what_is_no_run_is_refused(tmp_path: Path, manifest: Path) -> None:
    with pytest.raises(InvalidInput, match="no finished run"):
        read_run(tmp_path)
    with pytest.raises(InvalidInput, match="no run"):
        compare([], manifest)
    stranger = read_run(_run(tmp_path / "a", "plain", ["v99", *VAL], 1.0))
    with pytest.raises(InvalidInput, match="does not name v99"):
        compare([stranger], manifest)
