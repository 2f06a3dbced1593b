"""Labels are read as they were given: what nobody looked for is unknown, not absent."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from tiny_models import COLUMNS, MINED, write_manifest, write_rows

from models.data import hard_targets, read_film, read_manifest, soft_targets
from models.sampling import choose_findings
from storage.errors import InvalidInput

FINDINGS = ("Abnormal", "Effusion", "Mass")


def _row(image: str, abnormal: int, findings: str, **more: str) -> tuple[object, ...]:
    values = {"image": image, "source": "nih", "split": "train", "group": "", "label_abnormal": abnormal,
              "label_radiologist": "", "findings": findings, "label_basis": MINED} | more  # fmt: skip
    return tuple(values[name] for name in COLUMNS)


def test_findings_are_absent_only_where_somebody_looked(tmp_path: Path) -> None:
    rows = [
        _row("mined.png", 1, "Mass"),
        _row("normal.png", 0, "No Finding"),
        _row("published.png", 1, "Effusion", label_basis="published case"),
        _row("contradicted.png", 1, "Mass", label_radiologist="0"),
        _row("missed.png", 0, "No Finding", label_radiologist="1"),
    ]
    table = hard_targets(read_manifest(write_rows(tmp_path, rows), {"train"}), FINDINGS)
    nan = np.nan
    expected = [[1, 0, 1], [0, 0, 0], [1, 1, nan], [0, 0, nan], [1, 0, 0]]
    assert np.array_equal(table, np.array(expected, np.float32), equal_nan=True)


def test_a_mined_label_is_believed_less_than_a_radiologists(tmp_path: Path) -> None:
    rows = [_row("a.png", 1, "Mass"), _row("b.png", 1, "Mass", label_radiologist="1"), _row("c.png", 0, "")]
    mined, expert, normal = soft_targets(read_manifest(write_rows(tmp_path, rows), {"train"}), FINDINGS)[:, 0]
    assert 0.5 < mined < expert < 1
    assert normal == pytest.approx(1 - mined)


def test_only_the_asked_splits_are_read_and_groups_default_to_the_film(tmp_path: Path) -> None:
    rows = [_row("a.png", 1, "", split="test"), _row("b.png", 0, ""), _row("c.png", 0, "", group="p1")]
    films = read_manifest(write_rows(tmp_path, rows), {"train"})
    assert [(film.image, film.group) for film in films] == [("b.png", "b.png"), ("c.png", "p1")]
    assert films[0].path == tmp_path / "b.png"


def test_three_columns_are_enough(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path, [("a.png", 1, "val")], ("image", "label_abnormal", "split"))
    film = read_manifest(manifest, {"val"})[0]
    assert (film.abnormal, film.source, film.findings) == (1, "", frozenset())


def test_a_manifest_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_manifest(tmp_path / "none.csv", {"train"})
    manifest = write_rows(tmp_path, [("a.png", 1)], ("image", "label_abnormal"))
    with pytest.raises(InvalidInput, match="no column split"):
        read_manifest(manifest, {"train"})
    manifest = write_rows(tmp_path, [_row("a.png", 2, "")])
    with pytest.raises(InvalidInput, match=r"a\.png is not 0 or 1"):
        read_manifest(manifest, {"train"})
    with pytest.raises(InvalidInput, match="no film in split test, val"):
        read_manifest(manifest, {"val", "test"})
    manifest = write_rows(tmp_path, [_row("a.png", 1, "")])
    with pytest.raises(InvalidInput, match="no film in split external"):
        read_manifest(manifest, {"train", "external"})


def test_a_film_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, {"train": 2})
    first, second = read_manifest(manifest, {"train"})
    assert read_film(first).shape == (128, 112)
    first.path.unlink()
    second.path.write_bytes(b"no image")
    for film in (first, second):
        with pytest.raises(InvalidInput, match=film.image):
            read_film(film)


def test_a_finding_that_only_one_class_sources_carry_is_not_learnt(tmp_path: Path) -> None:
    rows = [_row(f"n{i}.png", 0, "") for i in range(3)]
    rows += [_row(f"e{i}.png", 1, "Effusion") for i in range(3)]
    rows += [_row(f"m{i}.png", 1, "Mass") for i in range(1)]
    rows += [_row(f"t{i}.png", 1, "Tuberculosis", source="tb", label_basis="TB case") for i in range(9)]
    films = read_manifest(write_rows(tmp_path, rows), {"train"})
    assert choose_findings(films, 2) == ("Abnormal", "Effusion")
    assert choose_findings(films, 1) == ("Abnormal", "Effusion", "Mass")
