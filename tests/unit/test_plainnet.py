"""The ResNet in numpy against torch's, for other sizes, kernels and widths than the gate's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.plainnet import fold, forward, needed

torch = pytest.importorskip("torch")


def network(seed: int, *, planes: tuple[int, ...], kernel: int, outputs: int) -> Any:
    """A MONAI ResNet whose norms have statistics and gains that are not 0 and 1."""
    from models.networks import build_network

    torch.manual_seed(seed)
    net = build_network(
        {
            "_target_": "monai.networks.nets.ResNet", "block": "basic", "layers": [1, 1, 1, 1],
            "block_inplanes": list(planes), "spatial_dims": 2, "n_input_channels": 1, "conv1_t_size": kernel,
            "conv1_t_stride": 2, "bias_downsample": False, "num_classes": outputs,
        }
    )  # fmt: skip
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, -1.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    return net.eval()


def arrays(net: Any) -> dict[str, np.ndarray]:
    return fold({name: value.numpy() for name, value in net.state_dict().items()})


@pytest.mark.parametrize(
    ("size", "planes", "kernel"),
    [(64, (16, 24, 48, 96), 5), (96, (8, 16, 16, 32), 7), (50, (4, 4, 8, 8), 3), (33, (6, 6, 6, 6), 5)],
)
def test_it_gives_what_torch_gives(size: int, planes: tuple[int, ...], kernel: int) -> None:
    net = network(size, planes=planes, kernel=kernel, outputs=8)
    images = np.random.default_rng(size).normal(size=(3, size, size)).astype(np.float32)
    with torch.inference_mode():
        expected = net(torch.from_numpy(images[:, np.newaxis])).numpy()
    given = forward(arrays(net), images)
    assert given.dtype == np.float32
    assert given == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_images_of_a_batch_do_not_mix() -> None:
    folded = arrays(network(1, planes=(4, 6, 8, 10), kernel=5, outputs=3))
    images = np.random.default_rng(1).normal(size=(5, 64, 64)).astype(np.float32)
    each = np.concatenate([forward(folded, image[np.newaxis]) for image in images])
    assert forward(folded, images) == pytest.approx(each, abs=1e-5)


def test_what_is_folded_has_every_needed_name_and_the_input_is_left_as_it_was() -> None:
    folded = arrays(network(2, planes=(4, 4, 8, 8), kernel=3, outputs=2))
    assert needed() <= set(folded)
    beside = {name.rpartition(".")[0] for name in set(folded) - needed()}
    assert beside == {"layer2.0.down", "layer3.0.down", "layer4.0.down"}  # where the size changes
    images = np.ones((1, 64, 64), np.float32)
    forward(folded, images)
    assert (images == 1).all()
