"""Engines: every one gives torch's numbers, a kept conversion is checked at each start, nothing calls home."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from tiny_bundle import write_tiny_bundle

from inference.engine import Device, load_engine
from models.bundle import Bundle, load_bundle
from models.features import pooled
from models.phantom import chest
from storage.errors import InvalidBundle

pytest.importorskip("torch")
# torch, monai and openvino warn of what their own code does
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(write_tiny_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def films(bundle: Bundle) -> npt.NDArray[np.float32]:
    return np.stack([bundle.prepare(chest(seed, rows=256, columns=224)) for seed in range(11, 16)])


def worst(bundle: Bundle, films: npt.NDArray[np.float32], logits: npt.NDArray[np.float32]) -> float:
    """The greatest difference of a probability from what torch gives."""
    return float(np.abs(bundle.probabilities(logits) - truth(bundle, films)).max())


def truth(bundle: Bundle, films: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    import torch

    with torch.inference_mode():
        return bundle.probabilities(bundle.network()(torch.from_numpy(films)).numpy())


def known_means(bundle: Bundle, films: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The head's input [n, c], taken from a hook on the network itself and not from our split of it."""
    import torch

    network, seen = bundle.network(), []
    network.class_layers.out.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.inference_mode():
        network(torch.from_numpy(films))
    return np.asarray(seen[0].numpy(), np.float32)


def test_the_films_tell_a_wrong_engine(bundle: Bundle, films: npt.NDArray[np.float32]) -> None:
    assert float(truth(bundle, films).std(axis=0).min()) > 0.1


@pytest.mark.parametrize(("device", "tolerance"), [("cpu", 1e-4), ("openvino", 0.03)])
def test_an_engine_gives_the_numbers_of_the_network(
    device: Device, tolerance: float, bundle: Bundle, films: npt.NDArray[np.float32], cache: Path
) -> None:
    engine = load_engine(bundle, device, cache)
    logits, features = engine.predict(films)
    assert engine.name.startswith("torch-cpu" if device == "cpu" else device)
    assert logits.dtype == np.float32
    assert logits.shape == (5, 3)
    assert worst(bundle, films, logits) < tolerance
    assert features is not None
    assert features.dtype == np.float32
    assert np.abs(pooled(features) - known_means(bundle, films)).max() < 20 * tolerance


def test_one_film_gets_the_same_numbers_alone_and_in_a_batch(
    bundle: Bundle, films: npt.NDArray[np.float32], cache: Path
) -> None:
    engine = load_engine(bundle, "openvino", cache)
    together = bundle.probabilities(engine.predict(films).logits)
    alone = np.concatenate([bundle.probabilities(engine.predict(films[i : i + 1]).logits) for i in range(len(films))])
    assert np.abs(together - alone).max() < 0.01


def test_a_later_start_needs_neither_torch_nor_monai_and_nothing_calls_home(bundle: Bundle, cache: Path) -> None:
    load_engine(bundle, "openvino", cache)
    code = f"""
import json, sys
from pathlib import Path
import numpy as np
from inference.engine import load_engine
from models.bundle import load_bundle
bundle = load_bundle(Path({str(bundle.path)!r}))
engine = load_engine(bundle, "openvino", Path({str(cache)!r}))
logits, features = engine.predict(np.zeros((2, 1, 64, 64), np.float32))
loaded = [name for name in ("torch", "monai", "openvino_telemetry") if sys.modules.get(name)]
print(json.dumps([logits.shape, features.shape[0], loaded]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout.splitlines()[-1]) == [[2, 3], 2, []]


def test_the_converter_does_not_call_home(bundle: Bundle, tmp_path: Path) -> None:
    load_engine(bundle, "openvino", tmp_path)
    assert sys.modules.get("openvino_telemetry") is None


def _folder(cache: Path) -> Path:
    (folder,) = (path for path in cache.iterdir() if not path.name.startswith("."))
    return folder


@pytest.mark.parametrize("damage", ["weights", "structure", "missing", "other model"])
def test_a_kept_conversion_that_is_damaged_is_made_again(
    damage: str, bundle: Bundle, films: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    load_engine(bundle, "openvino", tmp_path)
    folder = _folder(tmp_path)
    weights = folder / "model.bin"
    if damage == "weights":
        weights.write_bytes(bytes(weights.stat().st_size))
    elif damage == "structure":
        (folder / "model.xml").write_text("<net")
    elif damage == "missing":
        (folder / "probe.npz").unlink()
    else:
        other = load_bundle(write_tiny_bundle(tmp_path / "other", seed=2))
        load_engine(other, "openvino", tmp_path / "others")
        weights.write_bytes((_folder(tmp_path / "others") / "model.bin").read_bytes())
    logits = load_engine(bundle, "openvino", tmp_path).predict(films).logits
    assert worst(bundle, films, logits) < 0.03


def test_another_model_gets_a_conversion_of_its_own(bundle: Bundle, tmp_path: Path) -> None:
    load_engine(bundle, "openvino", tmp_path / "cache")
    load_engine(load_bundle(write_tiny_bundle(tmp_path / "other", seed=2)), "openvino", tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_gpu_that_is_not_there_is_told(bundle: Bundle) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InvalidBundle, match="cannot be put on cuda"):
        load_engine(bundle, "cuda")
    assert load_engine(bundle, "auto").name != "torch-cuda"


def test_a_gpu_gives_the_numbers_of_the_network(bundle: Bundle, films: npt.NDArray[np.float32]) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    engine = load_engine(bundle, "auto")
    assert engine.name == "torch-cuda"
    assert worst(bundle, films, engine.predict(films).logits) < 0.03
