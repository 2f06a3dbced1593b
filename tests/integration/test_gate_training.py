"""The input gate, whole and small: films to a bundle, the same again, its figures and card, and the command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from dx_film import dx_object
from tiny_models import write_rows
from typer.testing import CliRunner

from models.bundle import load_bundle
from models.gate import load_gate
from models.gate_evaluation import evaluate_gate
from models.gate_views import children_part
from models.phantom import chest
from pacs import cli
from storage.errors import InvalidBundle, InvalidInput

pytest.importorskip("torch")

from models.gate_card import write_gate_card
from models.gate_fitting import GateConfig, train_gate

CONFIG = GateConfig(steps=6, batch=8, drawings=14, phantoms=2)
COLUMNS = ("image", "split", "source", "group", "age", "qc_flags")


@pytest.fixture(autouse=True)
def few_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of each kind are enough to see that they are judged."""
    monkeypatch.setattr("models.gate_evaluation._DRAWN", 2)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve adults to fit, six to choose, three to judge on, and a child of each part."""
    folder, rows = tmp_path_factory.mktemp("films"), list[tuple[object, ...]]()
    children = [next(f"c{n}" for n in range(99) if children_part(f"c{n}") == part) for part in ("fit", "val", "test")]
    groups = [("train", f"a{n}") for n in range(12)] + [("val", f"v{n}") for n in range(6)]
    groups += [(split, f"{split}{n}") for split in ("test", "external") for n in range(3)]
    groups += [("pediatric", group) for group in children]
    for seed, (split, group) in enumerate(groups):
        name = f"{group}.png"
        cv2.imwrite(str(folder / name), (chest(seed, rows=128, columns=112) >> 4).astype(np.uint8))
        rows.append((name, split, "nih", group, 7 if split == "pediatric" else 50, ""))
    return write_rows(folder, rows, COLUMNS)


@pytest.fixture(scope="module")
def trained(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_gate(manifest, tmp_path_factory.mktemp("gate"), CONFIG)


def test_training_ends_in_a_gate_that_tells_how_it_was_made(trained: Path) -> None:
    gate = load_gate(trained)
    assert gate.name == "input_gate"
    assert 0 <= gate.thresholds.upright <= 0.5
    assert 0.95 <= gate.thresholds.sure <= 0.99
    assert all(limit >= 0.5 for limit in (gate.thresholds.cropped, gate.thresholds.not_chest, gate.thresholds.child))
    ours = json.loads((trained / "configs" / "metadata.json").read_text())["sangloc"]
    assert (ours["training"]["adults"], ours["training"]["children"]) == (12, 1)
    assert ours["gate"]["chosen_on"] == 6
    assert ours["kind"] == "input gate"
    with pytest.raises(InvalidBundle, match="is an input gate, which scores no findings"):
        load_bundle(trained)


def test_the_same_films_give_the_same_gate(manifest: Path, trained: Path, tmp_path: Path) -> None:
    assert load_gate(train_gate(manifest, tmp_path, CONFIG)).weights_sha256 == load_gate(trained).weights_sha256


def test_every_kind_is_judged_and_stands_in_the_card(manifest: Path, trained: Path) -> None:
    strange = [("CR HAND", (chest(1, rows=200, columns=200) >> 4).astype(np.uint8))] * 2
    report = evaluate_gate(trained, manifest, others=strange)
    rows = {(row.group, row.kind): row for row in report.table}
    assert rows["adults, external", "turned 90"].images == 3
    assert rows["children", "nih, under 10 years"].images == 1
    assert rows["real images of other things", "CR HAND"].images == 2
    assert rows["drawn", "hand"].images == 2
    assert rows["rules", "blank"].right == rows["rules", "blank"].images == 3
    for row in report.table:
        assert row.right + row.missed + row.wrong <= row.images
        assert row.right + row.refused + row.missed + row.wrong >= row.images
    text = write_gate_card(trained, report, "the command").read_text()
    assert "the command" in text
    assert "| adults, external | turned 90 | 3 |" in text
    assert json.loads((trained / "docs" / "evaluation.json").read_text())["weights_sha256"] == report.weights_sha256


def test_a_card_is_not_written_for_other_weights(manifest: Path, trained: Path) -> None:
    from dataclasses import replace

    report = evaluate_gate(trained, manifest, splits=["external"])
    with pytest.raises(ValueError, match="other weights"):
        write_gate_card(trained, replace(report, weights_sha256="0" * 64), "the command")


def test_without_children_or_val_films_there_is_no_gate(tmp_path: Path) -> None:
    adult = ("a.png", "train", "nih", "a", 50, "")
    cv2.imwrite(str(tmp_path / "a.png"), (chest(1, rows=128, columns=112) >> 4).astype(np.uint8))
    with pytest.raises(InvalidInput, match="children"):
        train_gate(write_rows(tmp_path, [adult], COLUMNS), tmp_path / "out", CONFIG)
    child = ("a.png", "pediatric", "nih", next(f"c{n}" for n in range(99) if children_part(f"c{n}") == "fit"), 5, "")
    with pytest.raises(InvalidInput, match="split val"):
        train_gate(write_rows(tmp_path, [adult, child], COLUMNS), tmp_path / "out", CONFIG)


def test_the_command_judges_and_looks(manifest: Path, trained: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir()
    for name, part in (("hand", "HAND"), ("chest", "CHEST")):
        content, _ = dx_object(chest(4, rows=300, columns=280), BodyPartExamined=part)
        (others / f"{name}.dcm").write_bytes(content)
    (others / "note.txt").write_text("not an image")
    asked = ["gate", "evaluate", str(manifest), "--bundle", str(trained), "--others", str(others), "--json"]
    done = CliRunner().invoke(cli.app, asked, catch_exceptions=False)
    table = json.loads(done.output)["table"]
    assert [row["kind"] for row in table if row["group"] == "real images of other things"] == ["DX HAND"]
    cv2.imwrite(str(tmp_path / "turned.png"), np.rot90(chest(5, rows=400, columns=360) >> 4).astype(np.uint8))
    (tmp_path / "odd.dcm").write_bytes(b"nothing")
    looked = CliRunner().invoke(cli.app, ["gate", "look", str(tmp_path / "turned.png"), str(tmp_path / "odd.dcm")])
    assert "turned.png: scored; the image lay on its side, its top to the left" in looked.output
    assert "odd.dcm: not scored: it is neither DICOM nor an image" in looked.output
