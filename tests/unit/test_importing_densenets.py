"""Checkpoints of torchxrayvision's and torchvision's DenseNets give the same numbers after they were imported.

torchxrayvision and torchvision are no development dependencies (torchvision from PyPI wants to replace the pinned
torch): with them on the path their own networks are used, else only a DenseNet of the published layout.
To run all of it: pip install --no-deps --target DIR torchvision==0.28.0 torchxrayvision scikit-image pandas ...,
PYTHONPATH=DIR pytest tests/unit/test_importing_densenets.py
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from published_densenet import PublishedDenseNet, spread

from models.bundle import Bundle, load_bundle
from models.importers.adopting import Wanted, adopt
from models.importers.labels import CHEXNET, TORCHXRAYVISION
from models.phantom import chest
from models.preprocess import scale
from storage.errors import InvalidBundle, InvalidInput

ANY = tuple(f"finding_{n}" for n in range(5))


def save(path: Path, content: Any) -> str:
    torch.save(content, path)
    return str(path)


def imported(path: str, tmp_path: Path, **wanted: Any) -> Bundle:
    folder = tmp_path / f"bundle-{len(list(tmp_path.iterdir()))}"
    adopt(path, folder, Wanted(**wanted))
    return load_bundle(folder)


def films(shared_or_none: Path | None) -> list[np.ndarray]:
    """Real films where they are, and phantoms."""
    drawn = [chest(seed, rows=400, columns=360) for seed in (1, 2)]
    if shared_or_none is None:
        return drawn
    files = sorted((shared_or_none / "cxr" / "images" / "nih").iterdir())[:4]
    return drawn + [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files]


@pytest.fixture(scope="module")
def seen() -> list[np.ndarray]:
    folder = Path(__file__).parents[3] / "shared"
    return films(folder if folder.is_dir() else None)


def differences(network: torch.nn.Module, bundle: Bundle, seen: list[np.ndarray]) -> float:
    """The greatest difference of a logit between a network and its bundle, on films through our preprocessing."""
    images = torch.from_numpy(np.stack([bundle.prepare(film) for film in seen]))
    with torch.inference_mode():
        theirs, mine = network(images), bundle.network()(images)
    assert theirs.std() > 1e-3, "outputs that do not differ prove nothing"
    return float((theirs - mine).abs().max())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_densenet_of_the_published_layout_gives_the_same_logits(
    channels: int, tmp_path: Path, seen: list[np.ndarray]
) -> None:
    torch.manual_seed(1)
    network = spread(PublishedDenseNet(5, channels=channels, blocks=(2, 3, 2)))
    bundle = imported(save(tmp_path / "net.pth", network.state_dict()), tmp_path, labels=ANY)
    assert differences(network, bundle, seen) < 1e-5
    assert bundle.input_size == 224
    assert bundle.outputs == ANY


def arnoweng(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names as in the public CheXNet reproduction: DataParallel, a wrapping class, a sigmoid, `norm.1`, no counters."""
    renamed = OrderedDict()
    for name, value in state.items():
        old = re.sub(r"(denselayer\d+)\.(norm|conv)([12])\.", r"\1.\2.\3.", name)
        old = old.replace("classifier.", "classifier.0.")
        if not old.endswith("num_batches_tracked"):
            renamed[f"module.densenet121.{old}"] = value
    return renamed


def test_chexnets_checkpoint_keeps_its_numbers_under_its_old_names(tmp_path: Path, seen: list[np.ndarray]) -> None:
    torch.manual_seed(2)
    network = spread(PublishedDenseNet(14, channels=3))
    content = {"epoch": 7, "arch": "densenet121", "state_dict": arnoweng(network.state_dict()), "best_AUROC": 0.84}
    bundle = imported(save(tmp_path / "model.pth.tar", content), tmp_path)
    assert differences(network, bundle, seen) < 1e-5
    assert bundle.findings == ("Abnormal", *CHEXNET)
    assert bundle.name == "model"
    images = torch.from_numpy(bundle.prepare(seen[0])[None])
    with torch.inference_mode():  # a sigmoid stands behind the original's head
        theirs = torch.sigmoid(network(images)).numpy()
    np.testing.assert_allclose(
        bundle.probabilities(bundle.network()(images).detach().numpy())[:, 1:], theirs, atol=1e-6
    )


def test_preprocessing_is_what_each_kind_was_trained_on(tmp_path: Path) -> None:
    film = np.zeros((300, 200), np.uint8)
    film[:, 60:140] = np.linspace(0, 255, 80, dtype=np.uint8)
    film += np.random.default_rng(1).integers(0, 3, film.shape, dtype=np.uint8)
    grey = imported(
        save(tmp_path / "a.pt", spread(PublishedDenseNet(18, channels=1)).state_dict()), tmp_path, name="xrv"
    )
    image = grey.prepare(film)
    assert image.shape == (1, 224, 224)
    assert (image.min(), image.max()) == (-1024, 1024)
    assert grey.central
    assert grey.outputs == TORCHXRAYVISION
    colour = imported(save(tmp_path / "b.pt", spread(PublishedDenseNet(14, channels=3)).state_dict()), tmp_path)
    image = colour.prepare(film)
    assert image.shape == (3, 224, 224)
    np.testing.assert_allclose(image.min((1, 2)), [-2.1179, -2.0357, -1.8044], atol=1e-3)  # (0 - mean) / deviation
    np.testing.assert_allclose(image.max((1, 2)), [2.2489, 2.4286, 2.64], atol=1e-3)
    assert "nothing is known here of" in (colour.path / "docs" / "README.md").read_text().lower().replace("\n", " ")


def test_untrained_outputs_and_published_thresholds_of_torchxrayvision(tmp_path: Path, seen: list[np.ndarray]) -> None:
    torch.manual_seed(3)
    network = spread(PublishedDenseNet(4, channels=1))
    state = network.state_dict() | {"op_threshs": torch.tensor([0.2, torch.nan, 0.1, 0.4])}
    path = save(tmp_path / "xrv.pt", {"state_dict": state, "labels": ["Mass", "", "Lung Opacity", "Pleural Effusion"]})
    bundle = imported(path, tmp_path)
    assert bundle.outputs == ("Mass", "Lung_Opacity", "Effusion")
    assert bundle.thresholds == pytest.approx((0.5, 0.2, 0.1, 0.4))
    images = torch.from_numpy(np.stack([bundle.prepare(film) for film in seen]))
    with torch.inference_mode():
        np.testing.assert_allclose(bundle.network()(images), network(images)[:, [0, 2, 3]], atol=1e-5)


def test_abnormal_comes_first_wherever_it_stood(tmp_path: Path, seen: list[np.ndarray]) -> None:
    network = spread(PublishedDenseNet(3, channels=1))
    path = save(tmp_path / "net.pt", network.state_dict())
    bundle = imported(path, tmp_path, labels=("Mass", "No Finding", "abnormal"))
    assert bundle.findings == ("Abnormal", "Mass", "No Finding")
    images = torch.from_numpy(bundle.prepare(seen[0])[None])
    with torch.inference_mode():
        np.testing.assert_allclose(bundle.network()(images), network(images)[:, [2, 0, 1]], atol=1e-5)


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('code was run')",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda net: net.state_dict() | {"features.norm0.weight": torch.full((8,), torch.nan)}, "not finite"),
        (lambda net: net, "whole pickled network"),
        (lambda net: {"state_dict": net.state_dict(), "hook": _Code()}, "runs code"),
        (lambda _: {"epoch": 3}, "no weights"),
        (lambda _: {"fc.weight": torch.ones(3, 4)}, "not those of a DenseNet in torchvision's layout"),
        (lambda net: net.state_dict() | {"decoder.weight": torch.ones(3)}, "'decoder.weight', too"),
        (lambda net: {k: v for k, v in net.state_dict().items() if "denselayer1.conv1" not in k}, "is missing"),
        (lambda net: {k: v for k, v in net.state_dict().items() if "norm5" not in k}, "does not fit the network"),
        (lambda _: [1, 2], "not a state dict but a list"),
    ],
)
def test_what_is_no_densenets_state_dict_is_refused_and_no_code_is_run(
    content: Any, reason: str, tmp_path: Path
) -> None:
    path = save(tmp_path / "bad.pt", content(PublishedDenseNet(5, channels=3)))
    with pytest.raises(InvalidBundle, match=reason):
        imported(path, tmp_path, labels=ANY)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (None, "5 outputs, and the file does not name them"),
        (("A", "B"), "2 labels are given, the network has 5 outputs"),
        (("A", "B", "C", "effusion", "Pleural Effusion"), "one finding twice"),
        (("",) * 5, "name nothing"),
    ],
)
def test_labels_that_do_not_match_the_head_are_refused(labels: Any, reason: str, tmp_path: Path) -> None:
    path = save(tmp_path / "net.pt", PublishedDenseNet(5, channels=3).state_dict())
    with pytest.raises(InvalidBundle, match=reason):
        imported(path, tmp_path, labels=labels)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(InvalidInput, match="keras"):
        Wanted(kind="keras")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def torchvision() -> Any:
    """torchvision; its wheel on PyPI brings operators for CUDA builds of torch, which a DenseNet does without."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed: it would replace the pinned torch")
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):  # asked for at import only
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

    return torchvision


@pytest.mark.filterwarnings("ignore")
def test_torchxrayvisions_own_network_gives_the_same_logits(
    torchvision: Any, tmp_path: Path, seen: list[np.ndarray]
) -> None:
    xrv = pytest.importorskip("torchxrayvision.models", reason="torchxrayvision is not installed")
    torch.manual_seed(5)
    network = spread(xrv.DenseNet())
    bundle = imported(save(tmp_path / "xrv.pt", network.state_dict()), tmp_path)
    assert differences(network, bundle, seen) < 1e-5
    assert bundle.outputs == tuple(name.replace(" ", "_") for name in network.targets)
    xrv_image = xrv.utils.normalize(np.arange(256, dtype=np.uint8).reshape(16, 16), 255)
    np.testing.assert_allclose(
        scale(np.arange(256, dtype=np.uint8).reshape(16, 16), -1024, 1024)[0], xrv_image, atol=1e-3
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("size", "old"), [("densenet121", False), ("densenet121", True), ("densenet169", False)])
def test_torchvisions_own_network_gives_the_same_logits(
    torchvision: Any, size: str, old: bool, tmp_path: Path, seen: list[np.ndarray]
) -> None:
    torch.manual_seed(6)
    network = spread(getattr(torchvision.models, size)(weights=None, num_classes=14))
    state = network.state_dict()
    bundle = imported(save(tmp_path / "net.pth", {"state_dict": arnoweng(state)} if old else state), tmp_path)
    assert differences(network, bundle, seen) < 1e-5
