"""The noise schedule against closed forms, and the three predictions as one another's inverses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from whipray.trainers.diffusion import DiffusionConfig, build_schedule

T = 1000
PREDICTIONS = ("eps", "x0", "v")


def abar_of(schedule: str) -> NDArray[np.float64]:
    """abar_t, written from the papers: a product of 1 - beta_t, and a squared cosine."""
    t = np.arange(1, T + 1, dtype=np.float64)
    if schedule == "linear":
        return np.exp(np.log1p(-(1e-4 + (0.02 - 1e-4) * (t - 1) / (T - 1))).cumsum())
    return (np.cos((t / T + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)) ** 2


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_schedule_follows_the_closed_form(name: str) -> None:
    schedule = build_schedule(DiffusionConfig(schedule=name))
    abar = abar_of(name)
    last = T if name == "linear" else T - 1  # the cosine's last beta would be 1: cut to 0.999
    assert schedule.timesteps == len(schedule.betas) == T
    assert schedule.alphas_bar.dtype == schedule.betas.dtype == torch.float64
    np.testing.assert_allclose(schedule.alphas_bar[:last], abar[:last], rtol=1e-10)
    betas = 1 - abar / np.concatenate([[1.0], abar[:-1]])
    np.testing.assert_allclose(schedule.betas[:last], betas[:last], rtol=1e-8)
    assert schedule.betas.max() <= 0.999
    # the float32 coefficients are the float64 ones rounded once, not computed in float32
    exact = schedule.alphas_bar.numpy()
    assert np.array_equal(schedule.signal.numpy(), np.sqrt(exact).astype(np.float32))
    assert np.array_equal(schedule.noise.numpy(), np.sqrt(1 - exact).astype(np.float32))


def test_known_values_of_the_linear_schedule() -> None:
    schedule = build_schedule(DiffusionConfig())
    assert schedule.noise[0].item() == pytest.approx(0.01)  # beta_1 = 1e-4
    assert schedule.alphas_bar[-1].item() == pytest.approx(4.036e-5, rel=1e-3)
    sigma = (1 / schedule.alphas_bar - 1).sqrt()
    crossings = [int((sigma < level).sum()) for level in (1, 5, 20)]
    assert crossings == pytest.approx([259, 566, 769], abs=1)


def test_q_sample_has_the_moments_of_q() -> None:
    schedule = build_schedule(DiffusionConfig())
    generator = torch.Generator().manual_seed(0)
    n = 20_000
    for t in (0, 300, 999):
        eps = torch.randn(n, 1, 1, 1, generator=generator)
        x_t = schedule.q_sample(torch.full_like(eps, 0.7), torch.full((n,), t), eps).double()
        abar = abar_of("linear")[t]
        deviation = np.sqrt(1 - abar)  # 4 standard errors
        assert x_t.mean().item() == pytest.approx(np.sqrt(abar) * 0.7, abs=4 * deviation / n**0.5)
        assert x_t.var().item() == pytest.approx(1 - abar, rel=4 * (2 / n) ** 0.5)


def noised_images(schedule: str, prediction: str) -> tuple[Tensor, ...]:
    built = build_schedule(DiffusionConfig(schedule=schedule, prediction=prediction))
    t = torch.tensor([0, 1, 250, 500, 998, T - 1 if schedule == "linear" else 990])
    generator = torch.Generator().manual_seed(1)
    x_0 = torch.rand(len(t), 3, 4, 4, generator=generator) * 2 - 1
    eps = torch.randn(x_0.shape, generator=generator)
    return built, t, x_0, eps, built.q_sample(x_0, t, eps)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_output_gives_back_image_and_noise(schedule: str, prediction: str) -> None:
    built, t, x_0, eps, x_t = noised_images(schedule, prediction)
    found = built.to_x0(built.target(x_0, t, eps), x_t, t)
    abar = torch.from_numpy(abar_of(schedule))[t]
    rounding = 1e-6 / abar.sqrt()[:, None, None, None]  # eps is divided by sqrt(abar)
    assert ((found - x_0).abs() < rounding).all()
    torch.testing.assert_close(built.to_eps(x_0, x_t, t), eps, rtol=0, atol=5e-5)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_targets_in_angles(schedule: str) -> None:
    """Salimans & Ho, appendix D: x_t = cos(phi) x_0 + sin(phi) eps, and v is its derivative."""
    phi = np.arccos(np.sqrt(abar_of(schedule)))
    for prediction in PREDICTIONS:
        built, t, x_0, eps, x_t = noised_images(schedule, prediction)
        cos, sin = (torch.from_numpy(f(phi))[t][:, None, None, None] for f in (np.cos, np.sin))
        torch.testing.assert_close(x_t.double(), cos * x_0 + sin * eps, rtol=0, atol=1e-6)
        expected = {"eps": eps, "x0": x_0, "v": cos * eps - sin * x_0}[prediction]
        found = built.target(x_0, t, eps).double()
        torch.testing.assert_close(found, expected.double(), rtol=0, atol=1e-6)


def test_a_falling_schedule_is_refused() -> None:
    with pytest.raises(ValidationError, match="beta_start"):
        DiffusionConfig(beta_start=0.03, beta_end=0.02)
