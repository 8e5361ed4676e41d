"""The classifier's networks: their sizes, their features, their last layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from whipray.trainers.classification.networks import NAMES, NetworkName, build_network
from whipray.trainers.classification.networks.base import NormalisedLinear
from whipray.trainers.classification.networks.cifar_resnet import CifarResNet
from whipray.trainers.errors import DataProblem


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "depth", "millions"),
    # table 6 of He et al. 2016, and for depth 8 the sum of its layers
    [
        ("resnet8", 8, 0.0753),
        ("resnet20", 20, 0.27),
        ("resnet32", 32, 0.46),
        ("resnet44", 44, 0.66),
        ("resnet56", 56, 0.85),
        ("resnet110", 110, 1.7),
    ],
)
def test_small_networks_are_those_of_he_et_al(
    name: NetworkName, depth: int, millions: float
) -> None:
    network = build_network(name, (3, 32, 32), 10)
    assert parameters(network) / 1e6 == pytest.approx(millions, rel=0.02)
    weighted = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weighted) == depth
    for module in weighted:  # He initialisation: variance 2 / fan-in
        inputs = module.weight[0].numel()
        assert float(module.weight.detach().std()) == pytest.approx((2 / inputs) ** 0.5, rel=0.15)


def test_widths_grow_where_the_image_is_halved() -> None:
    network = CifarResNet(32, 3, 10)
    assert parameters(network) == 464_154
    sizes: list[tuple[int, ...]] = []
    for block in network.blocks:
        block.register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[1:])))
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert sizes == [(16, 32, 32)] * 5 + [(32, 16, 16)] * 5 + [(64, 8, 8)] * 5


def test_a_shortcut_keeps_every_other_pixel_between_zeros() -> None:
    block = CifarResNet(8, 1, 2).blocks[1]
    with torch.no_grad():
        block.norm2.weight.zero_()  # nothing but the shortcut is left
    x = torch.rand(2, 16, 8, 8)
    out = block(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


@pytest.mark.parametrize(
    ("name", "published"),
    # torchvision's table; resnet10 is resnet18 less one block of each width: two 3 x 3 convolutions
    # and their two norms
    [
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("resnet10", 11_689_512 - sum(18 * w * w + 4 * w for w in (64, 128, 256, 512))),
    ],
)
def test_large_networks_are_torchvision_s(name: NetworkName, published: int) -> None:
    assert parameters(build_network(name, (3, 64, 64), 1000)) == published


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet8", (1, 8, 8)),
        ("resnet32", (1, 9, 12)),
        ("resnet20", (3, 64, 64)),
        ("resnet10", (1, 33, 40)),
        ("resnet50", (3, 64, 64)),
    ],
)
@pytest.mark.parametrize("scale", [None, 30.0])
def test_logits_are_the_head_of_the_features(
    name: NetworkName, shape: tuple[int, int, int], scale: float | None
) -> None:
    network = build_network(name, shape, 4, scale)
    images = torch.rand(2, *shape)
    assert network(images).shape == (2, 4)  # batch norm in training mode has enough values
    network.eval()
    features = network.features(images)
    assert features.shape == (2, network.head.in_features)
    assert (features >= 0).all()
    assert torch.equal(network(images), network.head(features))


def test_a_normalised_head_gives_scaled_cosines() -> None:
    head = NormalisedLinear(5, 3, 30.0)
    torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(3))
    with torch.no_grad():
        head.weight.mul_(torch.tensor([[1.0], [7.0], [0.2]]))
    x = 4 * torch.rand(6, 5)
    expected = 30 * F.cosine_similarity(x[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(head(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(head(x), expected)


@pytest.mark.parametrize("name", NAMES)
def test_images_that_are_too_small_are_refused(name: NetworkName) -> None:
    with pytest.raises(DataProblem, match=r"images are 8 x 7, and resnet.* scale the images up"):
        build_network(name, (1, 8, 7), 2)


def test_the_fix_for_a_large_network_is_a_small_one() -> None:
    with pytest.raises(
        DataProblem,
        match=r"resnet10 needs at least 33 x 33 .* set classification\.network=resnet32",
    ):
        build_network("resnet10", (3, 32, 32), 2)
