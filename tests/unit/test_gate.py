"""The input gate that ships: what it lets pass, puts right and refuses, and what it is made of."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.gate import SENTENCES, Gate, features_as_stored, frame_as_stored, open_gate
from inference.pixels import read_pixels
from models import gate as gates
from models.gate import DEFAULT_GATE, load_gate, put_right
from models.notchest import DRAWN, draw
from models.phantom import ABNORMALITIES, chest
from models.preprocess import Frame
from pacs.part10 import read_head
from storage.errors import InvalidBundle, NotScorable

LEFT, DOWN, RIGHT = "top to the left", "upside down", "top to the right"
TURNS = {1: LEFT, 2: DOWN, 3: RIGHT}


def film(seed: int, abnormality: Any = "") -> np.ndarray:
    return (chest(seed, abnormality, rows=448, columns=400) >> 4).astype(np.uint8)


@pytest.fixture(scope="module")
def gate() -> Gate:
    return open_gate()


@pytest.mark.parametrize("abnormality", ABNORMALITIES)
def test_a_chest_film_passes_as_it_is_whatever_is_ill(abnormality: str, gate: Gate) -> None:
    for seed in range(5):
        good = film(seed, abnormality)
        looked = gate.look(good)
        assert looked.film is good
        assert (looked.notes, looked.turned) == ((), 0)


@pytest.mark.parametrize("quarter", [1, 2, 3])
@pytest.mark.parametrize("inverted", [False, True])
def test_a_turned_film_is_put_upright_and_an_inverted_one_put_right(quarter: int, inverted: bool, gate: Gate) -> None:
    good = film(11)
    came = np.rot90(good, quarter)
    looked = gate.look(~came if inverted else came)
    assert np.array_equal(looked.film, good)
    assert looked.turned == 90 * quarter
    assert TURNS[quarter] in looked.notes[0]
    assert ("black and white" in looked.notes[-1]) is inverted


def test_black_and_white_are_changed_back(gate: Gate) -> None:
    good = film(12)
    looked = gate.look(~good)
    assert np.array_equal(looked.film, good)
    assert looked.notes == ("black and white were exchanged in the image and were changed back",)


@pytest.mark.parametrize("kind", sorted(set(DRAWN) - {"lateral phantom"}))
def test_other_things_are_refused(kind: str, gate: Gate) -> None:
    refused = 0
    for seed in range(10):
        image = (draw(kind, np.random.default_rng([5, seed])) * 255).astype(np.uint8)
        try:
            gate.look(image)
        except NotScorable:
            refused += 1
    assert refused >= 9


def spoilt(name: str) -> np.ndarray:
    good, rng = film(3), np.random.default_rng(1)
    mottle = rng.integers(0, 256, good.shape).astype(np.uint8)
    made: dict[str, Callable[[], np.ndarray]] = {
        "blank": lambda: 128 + mottle % 3,
        "saturated": lambda: np.where(np.arange(good.size).reshape(good.shape) % 10 < 7, 255, good),
        "underexposed": lambda: np.where(np.arange(good.size).reshape(good.shape) % 10 < 9, 0, good),
        "few grey levels": lambda: good // 64 * 64,
        "noise": lambda: mottle,
        "64 pixels": lambda: good[:60],
    }
    return made[name]().astype(np.uint8)


@pytest.mark.parametrize("told", ["blank", "saturated", "underexposed", "few grey levels", "noise", "64 pixels"])
def test_an_image_that_shows_nothing_is_refused_with_what_is_wrong(told: str, gate: Gate) -> None:
    with pytest.raises(NotScorable, match=told):
        gate.look(spoilt(told))


def test_real_films_of_adults_pass_and_come_right_however_they_lie(shared: Path, gate: Gate) -> None:
    with (shared / "cxr" / "manifest.csv").open(encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row["split"] == "val" and row["source"] == "rsna_normal"][:40]
    came = right = 0
    for place, row in enumerate(rows):
        good = cv2.imread(str(shared / "cxr" / row["image"]), cv2.IMREAD_GRAYSCALE)
        assert np.array_equal(gate.look(good).film, good)
        quarter, inverted = place % 4, place % 8 >= 4
        try:
            put = gate.look(put_right(good, -90 * quarter, inverted=inverted))
        except NotScorable:
            continue
        came += 1
        right += np.array_equal(put.film, good)
    assert came >= 36
    assert right == came


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("pydicom_pylibjpeg-data/966_fixed.dcm", ""),
        ("pydicom_pydicom-data/RG1_J2KI.dcm", ""),
        ("mlmed_torchxrayvision/Fake_MONOHR1.dcm", "black and white"),  # says MONOCHROME1 and is not
        ("robyoung_dicom-test-files/RG2_J2KI", None),  # a hip
        ("robyoung_dicom-test-files/RG3_JLSL", None),  # an extremity
        ("robyoung_dicom-test-files/XA1_J2KI", None),  # an angiogram
        ("robyoung_dicom-test-files/MR1_J2KI", None),
        ("pydicom_pydicom/CT_small.dcm", None),
    ],
)
def test_real_files_of_many_makers(file: str, told: str | None, shared: Path, gate: Gate) -> None:
    content = (shared / "dicom" / file).read_bytes()
    head = read_head(io.BytesIO(content))
    assert head is not None
    image = read_pixels(content, head.dataset_offset, head.transfer_syntax)
    if told is None:
        with pytest.raises(NotScorable):
            gate.look(image)
    else:
        assert [told in note for note in gate.look(image).notes] == [True] * (told != "")


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.integers(0, 3), st.booleans())
def test_all_versions_of_an_image_are_judged_alike(seed: int, quarter: int, inverted: bool) -> None:
    """Where the eight versions vote, it cannot matter in which of them the image came."""
    keeper, kinds = load_gate(), list(DRAWN)
    drawn = draw(kinds[seed % len(kinds)], np.random.default_rng(seed), 64) if seed % 2 else film(seed)
    plain = gates.square((drawn * 255).astype(np.uint8) if seed % 2 else drawn.astype(np.uint8))
    other = np.rot90(plain, quarter)
    way, sure, _ = keeper._settled(plain)
    came, as_sure, _ = keeper._settled(np.ascontiguousarray(~other if inverted else other))
    assert as_sure == pytest.approx(sure, abs=1e-3)
    if sure > 0.55:
        assert came == (way % 4 + quarter) % 4 + 4 * ((way >= 4) ^ inverted)


def test_threads_may_share_a_gate(gate: Gate) -> None:
    films = [np.rot90(film(seed), seed % 4) for seed in range(12)]
    alone = [gate.keeper.look(one) for one in films]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(gate.keeper.look, films * 4)) == alone * 4


@given(st.integers(0, 3), st.tuples(st.integers(0, 3), st.integers(4, 7), st.integers(0, 3), st.integers(4, 7)))
def test_what_was_seen_upright_is_told_on_the_image_as_it_is_stored(quarter: int, box: tuple[int, ...]) -> None:
    left, right, top, bottom = box
    upright = np.zeros((1, 8, 8), np.float32)
    upright[0, top:bottom, left:right] = 1
    stored = features_as_stored(upright, 90 * quarter)
    assert np.array_equal(put_right(stored[0], 90 * quarter, inverted=False), upright[0])
    frame = frame_as_stored(Frame(left / 8, top / 8, right / 8, bottom / 8), 90 * quarter)
    rows, columns = np.nonzero(stored[0])
    assert np.allclose(frame, [columns.min() / 8, rows.min() / 8, columns.max() / 8 + 1 / 8, rows.max() / 8 + 1 / 8])


def test_numpy_gives_what_torch_gives() -> None:
    torch = pytest.importorskip("torch")
    from models.networks import build_network

    definition = json.loads((DEFAULT_GATE / "configs" / "inference.json").read_text())["network_def"]
    network = build_network(definition).eval()
    network.load_state_dict(torch.load(DEFAULT_GATE / "models" / "model.pt", weights_only=True))
    keeper, squares = load_gate(), np.stack([gates.square(film(seed)) for seed in range(4)])
    with torch.inference_mode():
        inputs = np.stack([gates.standard(one) for one in squares])[:, np.newaxis]
        expected = network(torch.from_numpy(inputs)).numpy()
    assert np.abs(keeper.logits(squares) - expected).max() < 0.05  # the arrays are kept in half precision


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda folder: (folder / "models" / "gate.npz").unlink(), "no file"),
        (lambda folder: (folder / "configs" / "metadata.json").write_text("{"), "no JSON"),
        (lambda folder: (folder / "configs" / "metadata.json").write_text("{}"), "no input gate"),
        (lambda folder: (folder / "models" / "gate.npz").write_bytes(b"PK\3\4 and nothing more"), "SHA-256"),
        (lambda folder: _rewrite(folder, lambda arrays: arrays.pop("stem.bias")), "lacks stem.bias"),
        (lambda folder: _rewrite(folder, lambda arrays: arrays["head.bias"].fill(np.nan)), "not finite"),
        (lambda folder: _rewrite(folder, lambda arrays: arrays.update({"head.bias": np.zeros(3)})), "3 outputs"),
        (lambda folder: _rewrite(folder, b"no archive"), "cannot be read"),
    ],
    ids=["missing", "no JSON", "other JSON", "other bytes", "lacking", "NaN", "outputs", "no archive"],
)
def test_a_damaged_gate_says_what_is_wrong(harm: Callable[[Path], Any], told: str, tmp_path: Path) -> None:
    folder = tmp_path / "gate"
    shutil.copytree(DEFAULT_GATE, folder)
    assert load_gate(folder).name == "input_gate"
    harm(folder)
    with pytest.raises(InvalidBundle, match=told):
        load_gate(folder)


def _rewrite(folder: Path, change: Callable[[dict[str, Any]], Any] | bytes) -> None:
    """Other arrays whose digest the metadata names."""
    file, metadata = folder / "models" / "gate.npz", folder / "configs" / "metadata.json"
    if isinstance(change, bytes):
        file.write_bytes(change)
    else:
        with np.load(file) as archive:
            arrays = dict(archive)
        change(arrays)
        np.savez(file, **arrays)
    told = json.loads(metadata.read_text())
    import hashlib

    told["sangloc"]["gate"]["arrays_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    metadata.write_text(json.dumps(told))


def test_every_sentence_has_vietnamese_words() -> None:
    """The page's table, read as text: each of our sentences matches a pattern before any that is not meant for it."""
    import re

    script = (Path(__file__).parents[2] / "api" / "web" / "reasons.js").read_text("utf-8")
    script = script.replace("${FRONTAL}", "only frontal chest radiographs are")
    patterns = re.findall(r"^  \[[\"`](.+?)[\"`], [\"`](.+)[\"`]\],$", script, re.MULTILINE)
    assert len(patterns) > 20
    shown = set()
    for sentence in SENTENCES:
        fits = [place for place, (pattern, _) in enumerate(patterns) if re.fullmatch(pattern, sentence, re.DOTALL)]
        assert fits, sentence
        shown.add(fits[0])
    assert len(shown) == len(SENTENCES)
