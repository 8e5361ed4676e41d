"""The classifier's losses, against their papers' formulas in float64 and against one another."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor, nn

from whipray.trainers.classification.losses import (
    AnyLoss,
    BalancedSoftmaxConfig,
    CrossEntropyConfig,
    DRWConfig,
    FocalLossConfig,
    LDAMConfig,
    LogitAdjustmentConfig,
    LossConfig,
    weighted_loss,
)
from whipray.trainers.classification.networks import build_network
from whipray.trainers.classification.networks.base import NormalisedLinear

COUNTS = [500.0, 38.4, 5.0]  # 38.4: of real images and of generated ones that weigh 0.3
LABELS = [0, 1, 2, 1, 0]


def logits(scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    values = scale * torch.randn(5, 3, generator=generator, dtype=torch.float64)
    return values.requires_grad_()


def loss_and_gradient(config: LossConfig, counts: list[float] = COUNTS) -> tuple[Tensor, Tensor]:
    """The loss of each of five images, and its gradient at their logits."""
    x = logits()
    loss = config.build(torch.tensor(counts, dtype=torch.float64))
    each = loss(x, torch.tensor(LABELS))
    (gradient,) = torch.autograd.grad(each.sum(), x)
    return each.detach(), gradient


def log_share(scores: list[float], y: int) -> float:
    return math.log(math.exp(scores[y]) / sum(math.exp(z) for z in scores))


def ce(z: list[float], y: int) -> float:
    return -log_share(z, y)


def ldam(z: list[float], y: int) -> float:
    """Section 3.2 of Cao et al.; z = 30 cos."""
    margins = [0.5 * (5 / n) ** 0.25 for n in COUNTS]  # the rarest class has 5 images
    return -log_share([v - 30 * margins[c] * (c == y) for c, v in enumerate(z)], y)


def balanced_softmax(z: list[float], y: int) -> float:
    """Eq. 3 of Ren et al."""
    return -math.log(
        COUNTS[y] * math.exp(z[y]) / sum(n * math.exp(v) for n, v in zip(COUNTS, z, strict=True))
    )


def logit_adjusted(z: list[float], y: int) -> float:
    """The other form of Menon et al.'s eq. 10: 1 + the sum of (pi_c / pi_y)^tau e^(f_c - f_y)."""
    ratios = [(n / COUNTS[y]) ** 1.7 * math.exp(v - z[y]) for n, v in zip(COUNTS, z, strict=True)]
    return math.log(sum(ratios))


def focal(z: list[float], y: int) -> float:
    """Eq. 4 of Lin et al."""
    p = math.exp(log_share(z, y))
    return -((1 - p) ** 2) * math.log(p)


@pytest.mark.parametrize(
    ("config", "formula"),
    [
        (CrossEntropyConfig(), ce),
        (DRWConfig(), ce),
        (LDAMConfig(), ldam),
        (BalancedSoftmaxConfig(), balanced_softmax),
        (LogitAdjustmentConfig(tau=1.7), logit_adjusted),
        (FocalLossConfig(gamma=2), focal),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_loss_is_its_paper_s(
    config: LossConfig, formula: Callable[[list[float], int], float]
) -> None:
    each, gradient = loss_and_gradient(config)
    rows = logits().tolist()
    expected = [formula(z, y) for z, y in zip(rows, LABELS, strict=True)]
    np.testing.assert_allclose(each, expected, rtol=1e-6)
    step = 1e-6
    for i, (z, y) in enumerate(zip(rows, LABELS, strict=True)):  # central differences
        for c in range(3):
            up, down = (
                formula([v + sign * step * (k == c) for k, v in enumerate(z)], y)
                for sign in (1, -1)
            )
            slope = (up - down) / (2 * step)
            assert float(gradient[i, c]) == pytest.approx(slope, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(
    ("config", "limit", "counts"),
    [
        (FocalLossConfig(gamma=0), CrossEntropyConfig(), COUNTS),
        (LogitAdjustmentConfig(tau=0), CrossEntropyConfig(), COUNTS),
        (LDAMConfig(max_margin=0), CrossEntropyConfig(), COUNTS),
        (LogitAdjustmentConfig(tau=1), BalancedSoftmaxConfig(), COUNTS),
        (BalancedSoftmaxConfig(), CrossEntropyConfig(), [7, 7, 7]),
        (LogitAdjustmentConfig(tau=3), CrossEntropyConfig(), [7, 7, 7]),
    ],
)
def test_limits_are_other_losses(
    config: LossConfig, limit: LossConfig, counts: list[float]
) -> None:
    """Value and gradient."""
    torch.testing.assert_close(loss_and_gradient(config, counts), loss_and_gradient(limit, counts))


def test_ldam_without_margin_or_scale_is_normalised_cross_entropy() -> None:
    config = LDAMConfig(max_margin=0, scale=1)
    network = build_network("resnet8", (1, 8, 8), 3, config.head_scale).double().eval()
    head = network.head
    assert isinstance(head, NormalisedLinear)
    images, labels = torch.rand(6, 1, 8, 8, dtype=torch.float64), torch.arange(6) % 3
    features = network.features(images)
    cosines = (features / features.norm(dim=1, keepdim=True)) @ (
        head.weight / head.weight.norm(dim=1, keepdim=True)
    ).T
    found = config.build(torch.tensor(COUNTS))(network(images), labels)
    torch.testing.assert_close(found, F.cross_entropy(cosines, labels, reduction="none"))


def test_a_sure_answer_has_a_gradient_under_focal() -> None:
    x = torch.tensor([[200.0, 0.0]], requires_grad=True)
    for gamma in (0.5, 1.0, 2.0):
        each = FocalLossConfig(gamma=gamma).build(torch.ones(2))(x, torch.tensor([0]))
        (gradient,) = torch.autograd.grad(each.sum(), x)
        assert gradient.tolist() == [[0, 0]]


@pytest.mark.parametrize("config", [DRWConfig(), LDAMConfig()])
def test_deferred_weights_are_effective_numbers_from_epoch_160(config: LossConfig) -> None:
    counts = torch.tensor([5000.0, 387.0, 50.0], dtype=torch.float64)
    loss = config.build(counts)
    assert loss.class_weights(159, 200).tolist() == [1, 1, 1]
    # the effective number as the sum that it abbreviates: 1 + beta + beta^2 + ...
    effective = [sum(0.9999**i for i in range(int(n))) for n in counts]
    expected = np.array([1 / e for e in effective])
    expected *= 3 / expected.sum()
    np.testing.assert_allclose(loss.class_weights(160, 200), expected, rtol=1e-5)
    for without in (LDAMConfig(drw=False), CrossEntropyConfig(), BalancedSoftmaxConfig()):
        assert without.build(counts).class_weights(199, 200).tolist() == [1, 1, 1]


LOSSES: list[LossConfig] = [
    TypeAdapter(AnyLoss).validate_python({"name": name})
    for name in ("ce", "drw", "ldam", "balanced_softmax", "logit_adjustment", "focal")
]


@pytest.mark.parametrize("config", LOSSES, ids=lambda config: config.name)
def test_a_class_without_images_leaves_finite_numbers(config: LossConfig) -> None:
    """As where all images of a class are generated ones that weigh 0: it has labels then."""
    loss = config.build(torch.tensor([50.0, 0.0, 5.0], dtype=torch.float64))
    x = logits()
    of_class = loss.class_weights(9, 10)
    total = weighted_loss(
        loss(x, torch.tensor(LABELS)),
        of_class[LABELS],
        torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0]),
    )
    (gradient,) = torch.autograd.grad(total, x)
    assert total.isfinite()
    assert gradient.isfinite().all()
    assert not gradient[[1, 3]].any()


def gradient_of(network: nn.Module, loss: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])


@pytest.mark.parametrize("config", LOSSES, ids=lambda config: config.name)
def test_omega_is_a_weight_in_diffult_s_sum(config: LossConfig) -> None:
    """Eq. 4: the sum over real images plus omega times that over generated ones, for every loss."""
    torch.manual_seed(0)
    # evaluation mode: batch norm would let the images see one another
    network = build_network("resnet8", (1, 8, 8), 10, config.head_scale).double().eval()
    images, labels = torch.rand(12, 1, 8, 8, dtype=torch.float64), torch.arange(12) % 10
    real, generated = slice(0, 7), slice(7, 12)
    equal = torch.ones(12, dtype=torch.float64)
    loss = config.build(torch.arange(1.0, 11.0, dtype=torch.float64))

    def of_sum(rows: slice) -> Tensor:
        return gradient_of(network, loss(network(images[rows]), labels[rows]).sum())

    for omega in (0.0, 0.3, 1.0):
        weights = equal.clone()
        weights[generated] = omega
        found = gradient_of(
            network, 12 * weighted_loss(loss(network(images), labels), equal, weights)
        )
        torch.testing.assert_close(
            found, of_sum(real) + omega * of_sum(generated), rtol=1e-9, atol=1e-12
        )


def test_class_weights_are_normalised_as_pytorch_does() -> None:
    x, labels = torch.randn(9, 3), torch.arange(9) % 3
    of_class = torch.tensor([0.2, 0.8, 2.0])
    found = weighted_loss(
        F.cross_entropy(x, labels, reduction="none"), of_class[labels], torch.ones(9)
    )
    torch.testing.assert_close(found, F.cross_entropy(x, labels, weight=of_class))
