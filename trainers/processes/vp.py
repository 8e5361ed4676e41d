"""vp: the discrete variance-preserving process of DDPM (Ho et al. 2020), t = 0 .. T-1.

    alpha_t = sqrt(abar_t)        sigma_t = sqrt(1 - abar_t)        abar_t = prod_{i <= t} (1 - beta_i)

Between two whole times, which samplers may ask for, log alpha is linear in t (Lu et al. 2022, DPM-Solver,
appendix D, for processes that are trained at discrete times).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..randomness import BatchRandom
from .base import Process, ProcessConfig, rows

MAX_SIGNAL = 0.1
"""Largest sqrt(abar_T); the linear schedule at T = 1000 has 0.006."""
MAX_RATIO = 160.0
"""Largest sigma / alpha of a sampler's grid, just above the 157 of the linear schedule. The cosine schedule
goes to 20,000, and half of a grid in log SNR would be spent where x_t is nothing but noise."""


class VPConfig(ProcessConfig):
    """The noise schedule and the network's prediction."""

    name: Literal["vp"] = "vp"
    schedule: Literal["linear", "cosine", "scaled_linear"] = "linear"
    """linear: Ho et al. section 4; cosine: Nichol & Dhariwal 2021, eq. 17; scaled_linear: sqrt(beta) is
    linear, as in latent diffusion (Rombach et al. 2022, where beta goes from 8.5e-4 to 0.012)."""
    timesteps: int = Field(1000, ge=2)
    """T, the number of noise levels."""
    beta_start: float = Field(1e-4, gt=0, lt=1)
    """beta_1; not read by the cosine schedule."""
    beta_end: float = Field(0.02, gt=0, lt=1)
    """beta_T; not read by the cosine schedule."""
    prediction: Literal["eps", "x0", "v"] = "eps"
    """What the network predicts; v: Salimans & Ho 2022, appendix D."""

    @model_validator(mode="after")
    def _check_betas(self) -> VPConfig:
        if self.beta_start > self.beta_end:
            raise ValueError("beta_start must not exceed beta_end")
        left = math.sqrt(float((1 - self.betas()).prod()))
        if left > MAX_SIGNAL:  # samplers start from pure noise
            raise ValueError(
                f"sqrt(abar_T) is {left:.2f}, so x_T is not noise: raise process.beta_end or "
                "process.timesteps"
            )
        return self

    def betas(self) -> Tensor:
        """Return beta_t, (T,) float64 on the CPU, whatever PyTorch's default device is."""
        start, end, steps = self.beta_start, self.beta_end, self.timesteps
        double = partial(torch.linspace, dtype=torch.float64, device="cpu")
        match self.schedule:
            case "linear":
                return double(start, end, steps)
            case "scaled_linear":
                return double(start**0.5, end**0.5, steps).square()
            case "cosine":  # Nichol & Dhariwal eq. 17, s = 0.008, beta <= 0.999
                grid = double(0, 1, steps + 1)
                f = torch.cos((grid + 0.008) / 1.008 * math.pi / 2) ** 2
                return (1 - f[1:] / f[:-1]).clamp(max=0.999)

    def build(self, device: torch.device | str = "cpu") -> VP:
        """Build the process on a device."""
        return VP(self, torch.device(device))


class VP(Process):
    """Coefficients are computed in float64; a `t` is int64, or float64 between whole times."""

    def __init__(self, config: VPConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        betas = config.betas()
        alphas_bar = torch.cumprod(1 - betas, 0)
        self.log_alpha = alphas_bar.log().div(2).cpu().numpy()  # (T,)
        self.betas = betas.to(device)
        self.alphas_bar = alphas_bar.to(device)
        self._alpha = alphas_bar.sqrt().to(device)
        self._sigma = (1 - alphas_bar).sqrt().to(device)

    def sample_times(self, rng: BatchRandom) -> Tensor:
        """Sample t uniformly in 0 .. T-1, (B,) int64."""
        return rng.integers("t", self.config.timesteps)

    def alpha(self, t: Tensor) -> Tensor:
        """Return sqrt(abar_t)."""
        if not t.is_floating_point():
            return self._alpha[t]
        low = t.floor().clamp(0, self.config.timesteps - 2).long()
        log_low, log_high = self._alpha[low].log(), self._alpha[low + 1].log()
        return (log_low + (t - low) * (log_high - log_low)).exp()

    def sigma(self, t: Tensor) -> Tensor:
        """Return sqrt(1 - abar_t)."""
        if not t.is_floating_point():
            return self._sigma[t]
        return (-torch.expm1(2 * self.alpha(t).log())).sqrt()

    def skip_and_out(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return c_skip and c_out; see `Process`."""
        alpha, sigma = self.alpha(t), self.sigma(t)
        match self.config.prediction:
            case "eps":  # x_0 = (x_t - sigma eps) / alpha
                return 1 / alpha, -sigma / alpha
            case "x0":
                return torch.zeros_like(alpha), torch.ones_like(alpha)
            case "v":  # x_0 = alpha x_t - sigma v
                return alpha, -sigma

    def target(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return eps, x_0 or v, (B, C, H, W) float32."""
        match self.config.prediction:
            case "eps":
                return eps
            case "x0":
                return x_0
            case "v":  # v = alpha eps - sigma x_0
                return rows(self.alpha(t)) * eps - rows(self.sigma(t)) * x_0

    def network_input(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return x_t and t as they are."""
        return x_t, t.float()

    def progress(self, t: Tensor) -> Tensor:
        """Return t / T, as CBDM's released code has it: from 0 to just below 1."""
        return t.double() / self.config.timesteps

    def time_of(self, ratio: float) -> float:
        """Return the time, whole or not, at which sigma / alpha has this value."""
        log_alpha = -0.5 * math.log1p(ratio**2)  # since alpha^2 + sigma^2 = 1
        times = np.arange(self.config.timesteps, dtype=np.float64)
        return float(np.interp(-log_alpha, -self.log_alpha, times))

    def clock(self, steps: int) -> Sequence[float]:
        """Return whole times from T-1 down, as "trailing" in Lin et al. 2024, table 2."""
        timesteps = self.config.timesteps
        steps = min(steps, timesteps)
        return [round(timesteps * (steps - k) / steps) - 1 for k in range(steps)]

    @property
    def ratios(self) -> tuple[float, float]:
        """The smallest and the largest sigma / alpha that samplers evaluate."""
        first, last = (math.sqrt(math.expm1(-2 * self.log_alpha[i])) for i in (0, -1))
        return first, min(last, MAX_RATIO)
