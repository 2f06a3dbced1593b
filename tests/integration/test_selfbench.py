"""The measurement that chooses the engine: kept, believed on this processor only, and never in the way."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from tiny_bundle import write_tiny_bundle

from inference.engine import load_engine
from inference.exported import OpenVinoEngine
from inference.selfbench import SPEED, TORCH, fastest_first, processor
from models.bundle import Bundle, load_bundle
from models.phantom import chest

pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(write_tiny_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def cache(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the converted network, measured."""
    folder = tmp_path_factory.mktemp("cache")
    load_engine(bundle, "openvino", folder)
    return folder


def speed_file(cache: Path) -> Path:
    (file,) = cache.glob(f"*/{SPEED}")
    return file


def tell(cache: Path, **speeds: float) -> None:
    """Write another measurement of this processor."""
    speed_file(cache).write_text(json.dumps({**processor(), "images_per_s": speeds}))


def test_the_first_start_measures_every_way_that_agrees_and_names_the_processor(cache: Path) -> None:
    found = json.loads(speed_file(cache).read_text())
    assert {"processor": found["processor"], "cores": found["cores"]} == processor()
    assert found["processor"]
    assert "f32" in found["images_per_s"]
    assert set(found["images_per_s"]) <= {"bf16", "f32", TORCH}
    assert all(speed > 1 for speed in found["images_per_s"].values())


def test_a_later_start_believes_what_was_measured(bundle: Bundle, cache: Path) -> None:
    tell(cache, bf16=1.0, f32=2.0)
    engine = load_engine(bundle, "auto", cache)
    assert isinstance(engine, OpenVinoEngine)
    assert engine.precision == "f32"
    assert json.loads(speed_file(cache).read_text())["images_per_s"] == {"bf16": 1.0, "f32": 2.0}


@pytest.mark.parametrize(("gain", "device", "name"), [
    (1.1, "auto", "openvino"), (1.3, "auto", "torch-cpu"), (1.3, "openvino", "openvino"),
])  # fmt: skip
def test_torch_is_taken_where_it_is_worth_its_memory(
    gain: float, device: str, name: str, bundle: Bundle, cache: Path
) -> None:
    tell(cache, **{"f32": 100.0, TORCH: 100 * gain})
    engine = load_engine(bundle, device, cache)  # type: ignore[arg-type]
    assert engine.name == name
    films = np.stack([bundle.prepare(chest(seed, rows=256, columns=224)) for seed in (1, 2)])
    exact = bundle.probabilities(load_engine(bundle, "cpu").predict(films).logits)
    # bf16, and a network that is made to show differences
    assert np.abs(bundle.probabilities(engine.predict(films).logits) - exact).max() < 0.1


@pytest.mark.parametrize(
    "content", ['{"processor": "another", "cores": 2, "images_per_s": {"f32": 1}}', '{"proc', "[]"]
)
def test_what_another_processor_measured_or_is_cut_off_is_measured_again(
    content: str, bundle: Bundle, cache: Path
) -> None:
    file = speed_file(cache)
    file.write_text(content)
    order = fastest_first(bundle, file.parent)
    found = json.loads(file.read_text())
    assert found["processor"] == processor()["processor"]
    assert set(order) == set(found["images_per_s"])


def test_where_nothing_can_be_measured_the_default_order_is_used(bundle: Bundle, tmp_path: Path) -> None:
    assert fastest_first(bundle, tmp_path / "no such folder") == ("bf16", "f32")
