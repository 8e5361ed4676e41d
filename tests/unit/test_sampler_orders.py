"""Samplers on a long-tailed mixture with the best denoiser: orders, and the distribution of the data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.mixtures import (
    MEAN,
    PROCESSES,
    SHARES,
    VARIANCE,
    best_denoiser,
    best_network,
    best_x_0,
    quantiles,
)
from torch import Tensor

from whipray.trainers.guidance import Denoiser
from whipray.trainers.processes import Process
from whipray.trainers.samplers import (
    DDIMSampler,
    DDPMSampler,
    DPMSolver2MSampler,
    HeunSampler,
    SamplerConfig,
    UniPCSampler,
)
from whipray.trainers.sampling import SamplingConfig, sample

START = quantiles(256)
MANY = 12_000


def exact(process: Process) -> Tensor:
    """The end of the probability flow, d y / d ln r = y - x_0 for y = x / alpha and r = sigma / alpha.

    By Runge-Kutta's fourth-order steps from the process's largest r to its smallest, then x_0.
    """
    low, high = process.ratios
    count = 1500
    h = math.log(low / high) / count
    y = high * START

    def slope(y: Tensor, log_r: float) -> Tensor:
        return y - best_x_0(y, 1.0, math.exp(log_r))

    for i in range(count):
        at = math.log(high) + i * h
        a = slope(y, at)
        b = slope(y + h / 2 * a, at + h / 2)
        c = slope(y + h / 2 * b, at + h / 2)
        y = y + h / 6 * (a + 2 * b + 2 * c + slope(y + h * c, at + h))
    return best_x_0(y, 1.0, low)


def error(sampler: SamplerConfig, process: Process, end: Tensor) -> float:
    """Root mean square distance to the exact end."""
    images = sampler(best_denoiser, lambda _: START, process)
    assert images.dtype == torch.float64
    return float((images - end).square().mean().sqrt())


@pytest.mark.parametrize("name", PROCESSES)
def test_errors_fall_with_the_order_that_a_method_promises(name: str) -> None:
    process = PROCESSES[name].build()
    end = exact(process)
    steps = [100, 200, 400, 800]

    def order(sampler: type[SamplerConfig], spacing: str) -> float:
        errors = [error(sampler(steps=n, spacing=spacing), process, end) for n in steps]
        return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])

    for spacing in ("rho", "log_snr"):
        assert order(DDIMSampler, spacing) == pytest.approx(1, abs=0.15)
        assert order(HeunSampler, spacing) == pytest.approx(2, abs=0.15)
        assert order(DPMSolver2MSampler, spacing) == pytest.approx(2, abs=0.15)
        assert order(UniPCSampler, spacing) > 2.6  # the corrector adds one


@pytest.mark.parametrize("name", PROCESSES)
def test_with_equal_calls_unipc_is_nearest_and_heun_needs_many(name: str) -> None:
    process = PROCESSES[name].build()
    end = exact(process)

    def of(calls: int) -> dict[str, float]:
        samplers: dict[str, SamplerConfig] = {
            "unipc": UniPCSampler(steps=calls, spacing="log_snr"),
            "dpmpp_2m": DPMSolver2MSampler(steps=calls, spacing="log_snr"),
            "ddim": DDIMSampler(steps=calls),
            "heun": HeunSampler(steps=(calls + 1) // 2),
        }
        assert all(s.calls(process.config) in (calls, calls - 1) for s in samplers.values())
        return {key: error(sampler, process, end) for key, sampler in samplers.items()}

    at_18, at_35 = of(18), of(35)
    assert 1.3 * at_18["unipc"] < at_18["dpmpp_2m"] < at_18["ddim"] / 1.5
    assert at_18["ddim"] < at_18["heun"]
    assert 1.8 * at_35["unipc"] < at_35["dpmpp_2m"] < at_35["heun"] / 3 < at_35["ddim"] / 3
    in_20 = error(UniPCSampler(steps=20, spacing="log_snr"), process, end)
    assert in_20 < error(DDIMSampler(steps=50), process, end) / 2


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("vp", DDPMSampler(variance="fixed_large")),
        ("vp", DDPMSampler(variance="fixed_small")),
        *((name, DDIMSampler(steps=500, spacing="log_snr", eta=1)) for name in PROCESSES),
        *((name, HeunSampler(steps=64, s_churn=40)) for name in ("vp", "flow")),
        *((name, HeunSampler(steps=64, s_churn=9, s_max=50)) for name in ("edm", "cosine")),
    ],
)
def test_noise_on_the_way_keeps_the_distribution(name: str, sampler: SamplerConfig) -> None:
    def noise(k: int) -> Tensor:
        generator = torch.Generator().manual_seed(k)
        return torch.randn(MANY, 1, 1, 1, generator=generator).double()

    x_0 = sampler(best_denoiser, noise, PROCESSES[name].build()).flatten()
    rare = float(SHARES[1])
    fourth = float((x_0 - MEAN).pow(4).mean())
    # four standard errors, and what the steps' size leaves
    assert float(x_0.mean()) == pytest.approx(MEAN, abs=4 * math.sqrt(VARIANCE / MANY))
    spread = math.sqrt((fourth - VARIANCE**2) / MANY)
    assert float(x_0.var()) == pytest.approx(VARIANCE, abs=4 * spread)
    share = float((x_0 > 0.5).double().mean())
    assert share == pytest.approx(rare, abs=4 * math.sqrt(rare * (1 - rare) / MANY))


def test_an_image_is_the_same_whatever_process_its_network_was_trained_by() -> None:
    """The probability flow leads from a noise to one image, so only the steps' size is between them."""
    labels = torch.zeros(64, dtype=torch.int64)
    images = {}
    for name, config in PROCESSES.items():
        process = config.build()
        for sampler in (
            DDIMSampler(steps=400, spacing="log_snr"),
            HeunSampler(steps=60),
            DPMSolver2MSampler(steps=100, spacing="log_snr"),
            UniPCSampler(steps=60, spacing="log_snr"),
        ):
            images[name, sampler.name] = sample(
                Denoiser(best_network(process), process),
                labels,
                (1, 1, 1),
                SamplingConfig(sampler=sampler, clip_x0=False),
                class_counts=[64],
                seed=0,
            )
    one = images["edm", "unipc"]
    assert one.std() > 0.1
    for other in images.values():
        assert float((other - one).square().mean().sqrt()) < 0.01
