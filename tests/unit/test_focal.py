"""Focal denoising: its formula and its derivative, row by row in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.objectives import COUNTS, CPU, PROCESS, SHAPE, Tiny, gradients, images_and_labels
from support.processes import PROCESSES, read_again, times_of
from torch import Tensor

from whipray.trainers.objectives import DDPMConfig, FocalConfig
from whipray.trainers.processes import ProcessConfig, VPConfig
from whipray.trainers.randomness import BatchRandom

ROWS = 16
ERRORS = np.logspace(-4, 1, ROWS)  # of the rows, from nearly right to far off


class Off:
    """A network that is wrong by a known share of some noise in each row."""

    def __init__(self, target: Tensor) -> None:
        wrong = torch.randn(target.shape, generator=torch.Generator().manual_seed(1))
        scale = torch.from_numpy(ERRORS).float().sqrt()[:, None, None, None]
        self.said = (target + scale * wrong).float().requires_grad_()

    def __call__(self, *_: object) -> Tensor:
        return self.said


@pytest.mark.parametrize(
    ("gamma", "process"),
    [
        *((gamma, VPConfig()) for gamma in (0.0, 0.5, 1.0, 3.0)),
        *((1.0, process) for process in PROCESSES.values()),
    ],
)
def test_value_and_gradient_are_the_formulas(gamma: float, process: ProcessConfig) -> None:
    batch, rng = images_and_labels(ROWS), BatchRandom(0, 0, 0, ROWS, CPU)
    x_0, eps = batch.images.double(), rng.normal("eps", SHAPE).double()
    rows = zip(times_of(process, rng), x_0, eps, strict=True)
    target = torch.stack([read_again(process, t).target(*row) for t, *row in rows])
    network = Off(target)
    loss = FocalConfig(gamma=gamma).build(COUNTS)(network, batch, process.build(), rng, 0)
    loss.total.backward()
    value = plain = 0.0
    for i in range(ROWS):
        difference = (network.said[i].detach().double() - target[i]).numpy()
        size = (difference**2).mean()  # l
        miss = 1 - math.exp(-size)
        value += miss**gamma * size / ROWS
        plain += size / ROWS
        # d/dl (1 - e^-l)^gamma l, times dl/dh = 2 (h - eps) / pixels
        slope = miss**gamma + gamma * miss ** (gamma - 1) * math.exp(-size) * size
        expected = slope * 2 * difference / difference.size / ROWS
        atol = 2e-5 * np.abs(expected).max()  # `said` is rounded to float32
        np.testing.assert_allclose(network.said.grad[i], expected, rtol=2e-5, atol=atol)
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
    loss = FocalConfig(gamma=gamma).build(COUNTS)(network, batch, PROCESS, rng, 0)
    loss.total.backward()
    assert torch.equal(network.said.grad[0], torch.zeros(SHAPE))
    assert (network.said.grad[1:].flatten(1).norm(dim=1) > 0).all()


def test_gamma_0_is_ddpm() -> None:
    network, batch, rng = Tiny(), images_and_labels(ROWS), BatchRandom(5, 3, 0, ROWS, CPU)
    focal, ddpm = (
        config.build(COUNTS)(network, batch, PROCESS, rng, 0).total
        for config in (FocalConfig(gamma=0, label_drop=0.4), DDPMConfig(label_drop=0.4))
    )
    assert focal.item() == pytest.approx(ddpm.item(), rel=1e-6)
    for g, reference in zip(gradients(network, focal), gradients(network, ddpm), strict=True):
        assert (g - reference).norm() <= 1e-6 * reference.norm()
