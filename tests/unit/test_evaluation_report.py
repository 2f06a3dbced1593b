"""An evaluation gives each figure with an interval over patients, by source, and only where it means something."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from tiny_models import COLUMNS, MINED, add_our_key, write_foreign_bundle, write_manifest, write_rows

from models.bundle import load_bundle
from models.card import write_card
from models.data import read_manifest
from models.evaluation import Report, bootstrap, evaluate
from models.metrics import auroc
from models.scoring import logits_of_films
from storage.errors import InvalidInput


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = write_foreign_bundle(tmp_path / "tiny", ["Abnormal", "Infiltration"])
    training = {"config": {"stages": [[1, 64]], "network": {"_target_": "a.ResNet"}, "epoch_films": 9, "seed": 1,
                           "learning_rate": 0.1, "weight_decay": 0, "ema": 0.9}, "films": 9, "abnormal": 4,
                "sources": ["nih"], "finished": "today"}  # fmt: skip
    points = {"sensitive": [0.1, 0.1], "balanced": [0.5, 0.5], "specific": [0.9, 0.9]}
    on = {"sources": ["nih"], "films": [9, 9], "positives": [4, 4]}
    add_our_key(folder, operating_points=points, training=training, calibrated_on=on, operating_point="balanced")
    return folder


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """20 phantoms of split test: 14 of a source with both classes, 6 of one with abnormal films only."""
    write_manifest(tmp_path, {"test": 20})
    rows: list[tuple[object, ...]] = []
    for seed in range(1, 21):
        sick, single = seed % 2, seed > 14
        radiologist = "" if seed > 12 else str(sick if seed > 2 else 1 - sick)
        abnormal = 1 if single else sick
        rows.append((f"{seed:04d}.png", "tb" if single else "nih", "test", f"p{seed // 2}", abnormal, radiologist,
                     "Infiltration" if abnormal else "", "TB case" if single else MINED))  # fmt: skip
    return write_rows(tmp_path, rows, COLUMNS)


def _figure(report: Report, **wanted: str) -> object:
    wanted = {"group": "", "point": ""} | wanted
    found = [f for f in report.figures if all(getattr(f, name) == value for name, value in wanted.items())]
    assert len(found) == 1, found
    return found[0]


def test_figures_are_those_of_the_films(bundle: Path, manifest: Path) -> None:
    report = evaluate(bundle, manifest, resamples=50)
    model, films = load_bundle(bundle), [film for film in read_manifest(manifest, {"test"}) if film.source == "nih"]
    p = model.probabilities(logits_of_films(model, films))[:, 0]
    figure = _figure(report, source="nih", labels="best", finding="Abnormal", measure="AUROC")
    assert figure.value == pytest.approx(auroc(p, np.array([film.abnormal for film in films])))
    assert figure.low <= figure.value <= figure.high
    assert (figure.films, figure.positives) == (14, 7)
    assert report.weights_sha256 == model.weights_sha256


def test_a_source_with_one_class_has_a_sensitivity_and_nothing_else(bundle: Path, manifest: Path) -> None:
    figures = [f for f in evaluate(bundle, manifest, resamples=20).figures if f.source == "tb"]
    assert {figure.measure for figure in figures} == {"sensitivity"}
    assert {figure.point for figure in figures} == {"", "sensitive", "balanced", "specific"}


def test_labels_of_the_data_set_and_of_radiologists_are_told_apart(bundle: Path, manifest: Path) -> None:
    report = evaluate(bundle, manifest, resamples=20)
    assert _figure(report, source="nih", labels="data set", measure="sensitivity").films == 14
    assert _figure(report, source="nih", labels="radiologist", measure="sensitivity").films == 12


def test_the_same_evaluation_gives_the_same_report_and_json_keeps_it(bundle: Path, manifest: Path) -> None:
    one, two = (evaluate(bundle, manifest, resamples=30) for _ in range(2))
    assert one == two
    assert Report.from_json(one.to_json()) == one
    assert len(one.rows()) == len(one.figures)
    assert all(len(row) == len(Report.COLUMNS) for row in one.rows())


def test_progress_ends_at_the_number_of_films(bundle: Path, manifest: Path) -> None:
    told = list[tuple[int, int]]()
    evaluate(bundle, manifest, resamples=2, progress=lambda done, films: told.append((done, films)))
    assert told[-1] == (20, 20)


def test_another_models_scores_are_compared_on_the_films_that_it_names(
    bundle: Path, manifest: Path, tmp_path: Path
) -> None:
    films = read_manifest(manifest, {"test"})[:14]
    rows: list[tuple[object, ...]] = [(film.image, 0.1, 0.8 if film.labelled else 0.2) for film in films]
    (tmp_path / "other").mkdir()
    other = write_rows(tmp_path / "other", rows, ("image", "prob_Mass", "prob_Nodule"))
    report = evaluate(bundle, manifest, resamples=20, reference=other)
    reference = _figure(report, source="films of reference", labels="data set", measure="AUROC of reference")
    assert (reference.value, reference.films) == (1.0, 14)
    ours = _figure(report, source="films of reference", labels="data set", measure="AUROC")
    difference = _figure(report, source="films of reference", labels="data set", measure="difference")
    assert difference.value == pytest.approx(ours.value - 1)
    other.write_text("image,prob_Mass\na,b\n")
    with pytest.raises(InvalidInput, match="reference"):
        evaluate(bundle, manifest, resamples=2, reference=other)


def test_a_card_holds_every_figure_and_no_other_models(bundle: Path, manifest: Path) -> None:
    report = evaluate(bundle, manifest, resamples=20)
    card = write_card(bundle, report, "sangloc evaluate tiny manifest.csv").read_text()
    for figure in report.figures:
        assert f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})" in card
    assert "Not a medical device" in card
    low = next(figure.low for figure in report.figures if figure.finding == "Infiltration")
    assert ("better than chance** (the interval holds 0.5): Infiltration" in card) == (low <= 0.5)
    assert report.weights_sha256 in card
    assert json.loads((bundle / "docs" / "evaluation.json").read_text())["figures"]
    stranger = write_foreign_bundle(bundle.parent / "stranger", ["Abnormal", "Mass", "Nodule"])
    with pytest.raises(ValueError, match="other weights"):
        write_card(stranger, report, "")


def test_a_card_says_how_far_the_aim_was_missed(bundle: Path, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    films = read_manifest(manifest, {"test"})[:14]
    rows: list[tuple[object, ...]] = [(film.image, 0.8 if film.labelled else 0.2) for film in films]
    other = write_rows(tmp_path / "other", rows, ("image", "prob_Mass"))
    report = evaluate(bundle, manifest, resamples=20, reference=other)
    ours = _figure(report, source="films of reference", labels="data set", measure="AUROC")
    assert ours.value < 1  # random weights
    assert f"**{1 - ours.value:.3f} below that interval**" in write_card(bundle, report, "").read_text()
    perfect = write_rows(tmp_path / "other", [(*row[:1], 0.5) for row in rows], ("image", "prob_Mass"))
    inside = write_card(bundle, evaluate(bundle, manifest, resamples=20, reference=perfect), "").read_text()
    assert ("inside that interval" in inside) == (ours.value >= 0.5)


def test_the_interval_of_a_mean_is_that_of_the_normal_theory() -> None:
    values = np.random.default_rng(3).normal(0, 1, 400)
    groups = [str(place) for place in range(400)]
    _, low, high = bootstrap(groups, {"mean": lambda at: float(values[at].mean())}, 2000)["mean"]
    half = 1.96 * values.std() / 20
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)
    assert (high + low) / 2 == pytest.approx(values.mean(), abs=half / 5)


def test_films_of_one_patient_widen_the_interval() -> None:
    values = np.repeat(np.random.default_rng(3).normal(0, 1, 50), 8)
    measures = {"mean": lambda at: float(values[at].mean())}
    _, low, high = bootstrap([str(place) for place in range(400)], measures, 500)["mean"]
    _, wide_low, wide_high = bootstrap([str(place // 8) for place in range(400)], measures, 500)["mean"]
    assert (wide_high - wide_low) > 2 * (high - low)


def test_resamples_without_a_class_are_left_out() -> None:
    y = np.array([1, 0, 0])
    scores = np.array([0.9, 0.1, 0.2])
    value, low, high = bootstrap(["a", "b", "c"], {"AUROC": lambda at: auroc(scores[at], y[at])}, 200)["AUROC"]
    assert (value, low, high) == (1, 1, 1)
    only = bootstrap(["a", "a", "a"], {"AUROC": lambda at: auroc(scores[at], 0 * y[at])}, 5)["AUROC"]
    assert all(math.isnan(value) for value in only)
