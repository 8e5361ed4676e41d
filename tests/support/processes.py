"""Every noise process read again from its paper, in float64 and one time after another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats
from torch import Tensor

from whipray.trainers.processes import EDMConfig, FlowConfig, ProcessConfig, VPConfig
from whipray.trainers.randomness import BatchRandom

Array = NDArray[np.float64]

PROCESSES: dict[str, ProcessConfig] = {
    "vp-eps": VPConfig(),
    "vp-x0": VPConfig(prediction="x0", schedule="cosine"),
    "vp-v": VPConfig(prediction="v", schedule="scaled_linear"),
    "edm": EDMConfig(),
    "edm-quantile": EDMConfig(sigma_data=0.7, p_mean=-0.8, p_std=1.6, progress="quantile"),
    "flow": FlowConfig(),
    "flow-logit-normal": FlowConfig(times="logit_normal", location=0.5, scale=1.3),
}
"""One of each kind, and of each prediction."""


@dataclass(frozen=True)
class Reading:
    """At one time t: x_t = alpha x_0 + sigma eps, and the network should say a x_0 + b eps."""

    alpha: float
    sigma: float
    a: float
    b: float
    scale: float
    """The network is given x_t times this,"""
    time: float
    """and this as its time."""
    progress: float

    def x_t(self, x_0: Tensor, eps: Tensor) -> Tensor:
        return self.alpha * x_0 + self.sigma * eps

    def target(self, x_0: Tensor, eps: Tensor) -> Tensor:
        return self.a * x_0 + self.b * eps

    def x_0_of(self, output: Tensor, x_t: Tensor) -> Tensor:
        """By the two equations above, of which an output and x_t are the left sides."""
        return (self.sigma * output - self.b * x_t) / (self.a * self.sigma - self.b * self.alpha)

    def eps_of(self, output: Tensor, x_t: Tensor) -> Tensor:
        return (self.a * x_t - self.alpha * output) / (self.a * self.sigma - self.b * self.alpha)


@cache
def abar_of(config: VPConfig) -> Array:
    """abar_t, (T,): a product of 1 - beta_t, and a squared cosine, whose beta is cut to 0.999."""
    T = config.timesteps
    t = np.arange(1, T + 1, dtype=np.float64)
    start, end = config.beta_start, config.beta_end
    if config.schedule == "cosine":
        closed = (
            np.cos((t / T + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)
        ) ** 2
        cut = 1 - closed / np.concatenate([[1.0], closed[:-1]]) > 0.999
        return np.where(cut, np.roll(closed, 1) * 0.001, closed)  # the last one
    if config.schedule == "linear":
        beta = start + (end - start) * (t - 1) / (T - 1)
    else:
        beta = (start**0.5 + (end**0.5 - start**0.5) * (t - 1) / (T - 1)) ** 2
    return np.exp(np.log1p(-beta).cumsum())


def read_again(config: ProcessConfig, t: float) -> Reading:
    """What the papers have at a time."""
    match config:
        case VPConfig():
            abar = float(abar_of(config)[int(t)])
            alpha, sigma = abar**0.5, (1 - abar) ** 0.5
            a, b = {"eps": (0.0, 1.0), "x0": (1.0, 0.0), "v": (-sigma, alpha)}[config.prediction]
            return Reading(alpha, sigma, a, b, 1.0, t, t / config.timesteps)
        case EDMConfig():  # table 1, and eq. 8's (x_0 - c_skip x_t) / c_out
            assert config.sigma_data is not None
            sd = config.sigma_data
            c_skip, c_out = sd**2 / (t**2 + sd**2), t * sd / (t**2 + sd**2) ** 0.5
            a, b = (1 - c_skip) / c_out, -c_skip * t / c_out
            c_in, c_noise = 1 / (t**2 + sd**2) ** 0.5, math.log(t) / 4
            return Reading(1.0, t, a, b, c_in, c_noise, progress_of_edm(config, t))
        case FlowConfig():
            return Reading(1 - t, t, -1.0, 1.0, 1.0, 1000 * t, t)
        case _:
            raise AssertionError(config)


def progress_of_edm(config: EDMConfig, sigma: float) -> float:
    """By the inverse of the variance-preserving SDE's sigma(tau), or by the trained noise's quantiles."""
    if config.progress == "quantile":
        return float(stats.norm(config.p_mean, config.p_std).cdf(math.log(sigma)))

    def excess(tau: float) -> float:  # ln(1 + sigma(tau)^2) is the integral of 0.1 + 19.9 tau
        return 19.9 * tau**2 / 2 + 0.1 * tau - math.log1p(sigma**2)

    return 1.0 if excess(1) < 0 else float(optimize.brentq(excess, 0, 1, xtol=1e-14))


def times_of(config: ProcessConfig, rng: BatchRandom) -> list[float]:
    """The times of a batch, by the quantiles of their distribution."""
    u = rng.uniform("t")[:, 0].numpy()
    match config:
        case VPConfig():
            times = np.floor(u * config.timesteps)
        case EDMConfig():
            times = stats.lognorm(config.p_std, scale=math.exp(config.p_mean)).ppf(u)
        case FlowConfig(times="logit_normal"):
            z = stats.norm(config.location, config.scale).ppf(u)
            times = 1 / (1 + np.exp(-z))
        case _:
            times = u
    return [float(t) for t in times]
