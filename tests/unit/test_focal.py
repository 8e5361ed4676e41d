"""Focal denoising: its formula and its derivative, row by row in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.objectives import COUNTS, CPU, SCHEDULE, SHAPE, Tiny, gradients, images_and_labels
from torch import Tensor

from whipray.trainers.objectives import DDPMConfig, FocalConfig
from whipray.trainers.randomness import BatchRandom

ROWS = 16
ERRORS = np.logspace(-4, 1, ROWS)  # of the rows, from nearly right to far off


class Off:
    """A network that is wrong by a known share of some noise in each row."""

    def __init__(self, eps: Tensor) -> None:
        wrong = torch.randn(eps.shape, generator=torch.Generator().manual_seed(1))
        scale = torch.from_numpy(ERRORS).float().sqrt()[:, None, None, None]
        self.said = (eps + scale * wrong).requires_grad_()

    def __call__(self, *_: object) -> Tensor:
        return self.said


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 3.0])
def test_value_and_gradient_are_the_formulas(gamma: float) -> None:
    batch, rng = images_and_labels(ROWS), BatchRandom(0, 0, 0, ROWS, CPU)
    eps = rng.normal("eps", SHAPE)
    network = Off(eps)
    loss = FocalConfig(gamma=gamma).build(COUNTS)(network, batch, SCHEDULE, rng, 0)
    loss.total.backward()
    value = plain = 0.0
    for i in range(ROWS):
        difference = (network.said[i].detach().double() - eps[i].double()).numpy()
        size = (difference**2).mean()  # l
        miss = 1 - math.exp(-size)
        value += miss**gamma * size / ROWS
        plain += size / ROWS
        # d/dl (1 - e^-l)^gamma l, times dl/dh = 2 (h - eps) / pixels
        slope = miss**gamma + gamma * miss ** (gamma - 1) * math.exp(-size) * size
        expected = slope * 2 * difference / difference.size / ROWS
        np.testing.assert_allclose(network.said.grad[i], expected, rtol=2e-5, atol=1e-12)
    assert loss.total.item() == pytest.approx(value, rel=1e-6)
    assert loss.terms["focused"].item() == pytest.approx(value, rel=1e-6)
    assert loss.metrics["denoising"].item() == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 1.0, 2.0])
def test_a_row_without_error_has_no_gradient(gamma: float) -> None:
    """(1 - e^-l)^gamma l and its slope are 0 at l = 0 for every gamma > 0, and l's error is for gamma 0."""
    batch, rng = images_and_labels(ROWS), BatchRandom(0, 0, 0, ROWS, CPU)
    network = Off(rng.normal("eps", SHAPE))
    with torch.no_grad():
        network.said[0] = rng.normal("eps", SHAPE)[0]  # l_0 = 0 exactly
    loss = FocalConfig(gamma=gamma).build(COUNTS)(network, batch, SCHEDULE, rng, 0)
    loss.total.backward()
    assert torch.equal(network.said.grad[0], torch.zeros(SHAPE))
    assert (network.said.grad[1:].flatten(1).norm(dim=1) > 0).all()


def test_gamma_0_is_ddpm() -> None:
    network, batch, rng = Tiny(), images_and_labels(ROWS), BatchRandom(5, 3, 0, ROWS, CPU)
    focal, ddpm = (
        config.build(COUNTS)(network, batch, SCHEDULE, rng, 0).total
        for config in (FocalConfig(gamma=0, label_drop=0.4), DDPMConfig(label_drop=0.4))
    )
    assert focal.item() == pytest.approx(ddpm.item(), rel=1e-6)
    for g, reference in zip(gradients(network, focal), gradients(network, ddpm), strict=True):
        assert (g - reference).norm() <= 1e-6 * reference.norm()
