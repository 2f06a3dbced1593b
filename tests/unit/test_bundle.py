"""Any MONAI bundle can be loaded; a broken or a hostile one is refused with the reason, and never run."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from tiny_models import NETWORK, add_our_key, change_json, write_foreign_bundle

from models.bundle import DEFAULT_BUNDLE, load_bundle
from models.networks import NETWORKS, build_network, check_definition
from models.phantom import chest
from storage.errors import InvalidBundle, InvalidInput

LABELS = ["Abnormal", "Effusion", "Mass"]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A sound bundle of ours."""
    folder = write_foreign_bundle(tmp_path / "tiny", LABELS)
    points = {"sensitive": [0.1, 0.2, 0.3], "balanced": [0.4, 0.5, 0.6]}
    calibration = {"method": "platt", "slope": [2.0, 1.0, 1.0], "offset": [0.5, 0.0, 0.0]}
    add_our_key(folder, operating_points=points, operating_point="sensitive", calibration=calibration)
    return folder


def _ours(bundle: Path, **changes: object) -> None:
    metadata = bundle / "configs" / "metadata.json"
    change_json(metadata, sangloc=json.loads(metadata.read_text())["sangloc"] | changes)


def test_a_bundle_says_what_it_is(bundle: Path) -> None:
    model = load_bundle(bundle)
    assert (model.name, model.version, model.input_size, model.channels) == ("tiny", "1.2.3", 64, 1)
    assert model.findings == model.outputs == tuple(LABELS)
    assert model.thresholds == (0.1, 0.2, 0.3)
    assert len(model.weights_sha256) == 64


def test_a_film_goes_through_to_calibrated_probabilities(bundle: Path) -> None:
    model = load_bundle(bundle)
    image = model.prepare(chest(1, rows=256, columns=224))
    with torch.inference_mode():
        logits = model.network()(torch.from_numpy(image[None])).numpy()
    assert logits.shape == (1, 3)
    assert model.probabilities(logits)[0, 0] == pytest.approx(1 / (1 + np.exp(-(2 * logits[0, 0] + 0.5))))
    assert not model.network().training


def test_a_foreign_bundle_gets_an_abnormal_from_its_findings(tmp_path: Path) -> None:
    model = load_bundle(write_foreign_bundle(tmp_path / "other", ["No Finding", "Mass", "Nodule"], channels=3))
    assert model.findings == ("Abnormal", "No Finding", "Mass", "Nodule")
    assert model.thresholds == (0.5,) * 4
    p = model.probabilities(np.array([[5.0, -1.0, 1.0]]))
    assert p[0, 0] == p[0, 3] == pytest.approx(0.7311, abs=1e-4)
    image = model.prepare(chest(2, rows=256, columns=224))
    assert image.shape == (3, 64, 64)
    assert (image.min(), image.max()) == (0, 1)  # its metadata ask for 0 to 1
    assert model.network()(torch.from_numpy(image[None])).shape == (1, 3)


def test_a_yaml_configuration_is_read_like_json(bundle: Path) -> None:
    yaml = pytest.importorskip("yaml")
    file = bundle / "configs" / "inference.json"
    (bundle / "configs" / "inference.yaml").write_text(yaml.safe_dump(json.loads(file.read_text())))
    file.unlink()
    assert load_bundle(bundle).network_def["num_classes"] == 3
    (bundle / "configs" / "inference.yaml").write_text("network_def: !!python/object/apply:os.system [touch pwned]")
    with pytest.raises(InvalidBundle, match="YAML"):
        load_bundle(bundle)


@pytest.mark.parametrize("file", ["configs/metadata.json", "configs/inference.json", "models/model.pt"])
def test_a_missing_file_is_named(bundle: Path, file: str) -> None:
    (bundle / file).unlink()
    with pytest.raises(InvalidBundle, match=f"has no file .*{file}"):
        load_bundle(bundle)


def test_a_folder_that_is_none_is_an_invalid_input(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has no file"):
        load_bundle(tmp_path / "nowhere")


def test_other_weights_than_recorded_are_refused(bundle: Path) -> None:
    with (bundle / "models" / "model.pt").open("ab") as weights:
        weights.write(b"\0")
    with pytest.raises(InvalidBundle, match="SHA-256"):
        load_bundle(bundle)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"network_data_format": 3}', "\udcff" * 3, "[" * 100_000])
def test_broken_metadata_are_refused(bundle: Path, text: str) -> None:
    (bundle / "configs" / "metadata.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(InvalidBundle):
        load_bundle(bundle)


def test_labels_that_do_not_fit_the_head_are_refused(bundle: Path) -> None:
    change_json(bundle / "configs" / "inference.json", network_def={**NETWORK, "num_classes": 4})
    with pytest.raises(InvalidBundle, match="3 labels, the network has 4 outputs"):
        load_bundle(bundle)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"operating_point": "bold"}, "operating point 'bold'"),
        ({"operating_points": {"sensitive": [0.1, 0.2]}}, "operating point 'sensitive'"),
        ({"operating_points": {"sensitive": [0.1, 0.2, 1.3]}}, "operating point 'sensitive'"),
        ({"operating_points": [1]}, "operating_points"),
        ({"calibration": {"method": "platt", "slope": [1.0], "offset": [0.0]}}, "3 findings"),
        ({"calibration": "none"}, "calibration"),
    ],
)
def test_thresholds_and_calibration_that_do_not_fit_are_refused(
    bundle: Path, changes: dict[str, object], reason: str
) -> None:
    _ours(bundle, **changes)
    with pytest.raises(InvalidBundle, match=reason):
        load_bundle(bundle)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ({"spatial_shape": [64, 96]}, "square"),
        ({"spatial_shape": ["64", "64"]}, "square"),
        ({"spatial_shape": [8, 8]}, "8 px"),
        ({"spatial_shape": [100_000, 100_000]}, "100000 px"),
        ({"spatial_shape": [64, 64], "num_channels": 4}, "4 channels"),
    ],
)
def test_an_input_that_is_no_film_is_refused(bundle: Path, image: dict[str, object], reason: str) -> None:
    pred = {"channel_def": dict(enumerate(LABELS))}
    change_json(
        bundle / "configs" / "metadata.json",
        network_data_format={"inputs": {"image": image}, "outputs": {"pred": pred}},
    )
    with pytest.raises(InvalidBundle, match=reason):
        load_bundle(bundle)


@pytest.mark.parametrize(
    "definition",
    [
        {"_target_": "os.system", "command": "touch pwned"},
        {"_target_": "monai.bundle.ConfigParser"},
        {"_target_": "evil.networks.nets.ResNet", "num_classes": 3},
        {"_target_": "ResNet", "num_classes": 3, "block": "$__import__('os').system('touch pwned')"},
        {"_target_": "ResNet", "num_classes": 3, "block": "@other"},
        {"_target_": "ResNet", "num_classes": 3, "act": ["relu", {"_target_": "os.system"}]},
        {"_target_": "ResNet", "num_classes": 3, "_mode_": "debug"},
        {"_target_": "ResNet", "num_classes": "$3"},
        {"_target_": "ResNet"},
        {"_target_": ["ResNet"]},
        {},
    ],
)
def test_a_configuration_can_name_networks_only_and_nothing_in_it_is_evaluated(
    bundle: Path, definition: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    change_json(bundle / "configs" / "inference.json", network_def=definition)
    with pytest.raises(InvalidBundle):
        load_bundle(bundle).network()
    assert not (tmp_path / "pwned").exists()


def test_wrong_arguments_are_refused_with_the_networks_own_words() -> None:
    with pytest.raises(InvalidBundle, match=r"ResNet cannot be built .*colour"):
        build_network({**NETWORK, "num_classes": 2, "colour": "blue"})


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith(("DenseNet121", "Eff"))])
def test_the_allow_list_names_networks_that_monai_builds_without_fetching_weights(name: str) -> None:
    own = {"model_name": "efficientnet-b0"} if name.startswith("Eff") else {}
    definition = {"_target_": name, "spatial_dims": 2, "in_channels": 1, NETWORKS[name]: 3, "pretrained": True, **own}
    assert check_definition(definition) == 3
    with torch.inference_mode():
        assert build_network(definition).eval()(torch.zeros(1, 1, 64, 64)).shape == (1, 3)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("pwned"),)  # type: ignore[return-value]


def test_weights_that_carry_code_are_refused_and_not_run(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (bundle / "models" / "model.pt").write_bytes(pickle.dumps({"fc.weight": _Bomb()}))
    add_our_key(bundle)
    with pytest.raises(InvalidBundle, match="not a state dict"):
        load_bundle(bundle).network()
    assert not (tmp_path / "pwned").exists()


def _resave(bundle: Path, state: object) -> None:
    torch.save(state, bundle / "models" / "model.pt")
    add_our_key(bundle)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(bundle: Path, bad: float) -> None:
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    state["fc.bias"][1] = bad
    _resave(bundle, state)
    with pytest.raises(InvalidBundle, match=r"not finite numbers, first in fc\.bias"):
        load_bundle(bundle).network()


def test_weights_of_another_network_or_of_none_are_refused(bundle: Path) -> None:
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    _resave(bundle, {name: value for name, value in state.items() if name != "fc.bias"})
    with pytest.raises(InvalidBundle, match=r"does not fit .*fc\.bias"):
        load_bundle(bundle).network()
    _resave(bundle, [1, 2])
    with pytest.raises(InvalidBundle, match="not a state dict"):
        load_bundle(bundle).network()


def test_half_precision_and_a_wrapped_state_dict_are_taken(bundle: Path) -> None:
    plain = load_bundle(bundle).network().state_dict()
    _resave(bundle, {"model": {k: v.half() if v.is_floating_point() else v for k, v in plain.items()}})
    again = load_bundle(bundle).network().state_dict()
    assert all(value.dtype == plain[name].dtype for name, value in again.items())
    assert all(torch.allclose(value, plain[name], atol=1e-3) for name, value in again.items())


def test_the_default_bundle_runs() -> None:
    model = load_bundle(DEFAULT_BUNDLE)
    assert model.findings[0] == "Abnormal"
    assert set(model.operating_points) == {"sensitive", "balanced", "specific"}
    with torch.inference_mode():
        logits = model.network()(torch.from_numpy(model.prepare(chest(1))[None])).numpy()
    assert np.all((model.probabilities(logits) > 0) & (model.probabilities(logits) < 1))
    assert "not a medical device" in (DEFAULT_BUNDLE / "docs" / "README.md").read_text().lower()


def test_reading_a_bundle_needs_neither_torch_nor_monai() -> None:
    check = (
        "import sys; from models.bundle import DEFAULT_BUNDLE, load_bundle; load_bundle(DEFAULT_BUNDLE);"
        "print(sorted({'torch', 'monai', 'openvino'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        ({"value_range": [0, 1], "mean": [0.5], "std": [0.0]}, "positive deviation for 1 channels"),
        ({"value_range": [0, 1], "mean": [0.5, 0.5, 0.5], "std": [1, 1, 1]}, "for 1 channels"),
        ({"value_range": [0, 1], "mean": "0.5", "std": ["x"]}, "for 1 channels"),
        ({"value_range": [0, 1], "mean": [0.5]}, "for 1 channels"),
        ("squeezed", "preprocessing is not a table"),
    ],
)
def test_a_preprocessing_that_makes_no_sense_is_refused(bundle: Path, pixels: object, reason: str) -> None:
    _ours(bundle, preprocessing=pixels)
    with pytest.raises(InvalidBundle, match=reason):
        load_bundle(bundle)


def test_a_preprocessing_of_ones_own_is_followed(bundle: Path) -> None:
    _ours(bundle, preprocessing={"geometry": "central square", "value_range": [0, 1], "mean": [0.5], "std": [0.25]})
    film = chest(1, rows=256, columns=224)
    image = load_bundle(bundle).prepare(film)
    assert (image.min(), image.max()) == (-2, 2)
    beside = np.concatenate([film[:16], film, film[-16:]])  # what lies outside of the square changes nothing
    np.testing.assert_array_equal(load_bundle(bundle).prepare(beside), image)


def test_the_fit_of_a_site_is_laid_over_and_checked(bundle: Path) -> None:
    model = load_bundle(bundle)
    lines = {"method": "platt", "slope": [1.0] * 3, "offset": [3.0, 0.0, 0.0]}
    fitted = model.refitted({"calibration": lines, "operating_points": {"balanced": [0.9] * 3}})
    assert fitted.thresholds == (0.9,) * 3
    assert fitted.weights_sha256 == model.weights_sha256
    assert fitted.probabilities(np.zeros((1, 3)))[0, 0] == pytest.approx(0.9526, abs=1e-4)
    for wrong in ({"operating_points": {"balanced": [0.9] * 4}}, {"calibration": {**lines, "slope": [1.0]}}):
        with pytest.raises(InvalidBundle):
            model.refitted(wrong)
