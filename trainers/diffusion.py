"""The forward process, and what a network may predict of it.

Notation of Ho et al. 2020 (DDPM): t = 0..T-1, x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from .config import Config


class DiffusionConfig(Config):
    """The noise schedule and the network's prediction."""

    schedule: Literal["linear", "cosine"] = "linear"
    """linear: Ho et al. section 4; cosine: Nichol & Dhariwal 2021, eq. 17."""
    timesteps: int = Field(1000, ge=2)
    """T, the number of noise levels."""
    beta_start: float = Field(1e-4, gt=0, lt=1)
    """beta_1 of the linear schedule."""
    beta_end: float = Field(0.02, gt=0, lt=1)
    """beta_T of the linear schedule."""
    prediction: Literal["eps", "x0", "v"] = "eps"
    """What the network predicts; v: Salimans & Ho 2022, appendix D."""

    @model_validator(mode="after")
    def _ascending(self) -> DiffusionConfig:
        if self.beta_start > self.beta_end:
            raise ValueError("beta_start must not exceed beta_end")
        return self


@dataclass(frozen=True)
class Schedule:
    """Coefficients of the diffusion process: computed in float64, used in float32.

    All tensors are (T,) and indexed by t.
    """

    config: DiffusionConfig
    betas: Tensor
    alphas_bar: Tensor
    """abar_t, float64."""
    signal: Tensor
    """sqrt(abar_t), float32."""
    noise: Tensor
    """sqrt(1 - abar_t), float32."""

    @property
    def timesteps(self) -> int:
        """T, the number of noise levels."""
        return self.config.timesteps

    def q_sample(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return x_t ~ q(x_t | x_0), Ho et al. eq. 4, (B, C, H, W).

        Args:
            x_0: images in [-1, 1], (B, C, H, W).
            t: (B,) int64.
            eps: (B, C, H, W).
        """
        return _rows(self.signal[t]) * x_0 + _rows(self.noise[t]) * eps  # (B, C, H, W)

    def target(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return the target of the network's prediction, (B, C, H, W)."""
        match self.config.prediction:
            case "eps":
                return eps
            case "x0":
                return x_0
            case "v":  # v = sqrt(abar) eps - sqrt(1 - abar) x_0
                return _rows(self.signal[t]) * eps - _rows(self.noise[t]) * x_0

    def to_x0(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the x_0 that an output of the network implies, (B, C, H, W)."""
        match self.config.prediction:
            case "eps":  # x_0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar)
                return (x_t - _rows(self.noise[t]) * output) / _rows(self.signal[t])
            case "x0":
                return output
            case "v":  # x_0 = sqrt(abar) x_t - sqrt(1 - abar) v
                return _rows(self.signal[t]) * x_t - _rows(self.noise[t]) * output

    def to_eps(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the eps that leads from x_0 to x_t, (B, C, H, W)."""
        return (x_t - _rows(self.signal[t]) * x_0) / _rows(self.noise[t])


def build_schedule(config: DiffusionConfig, device: torch.device | str = "cpu") -> Schedule:
    """Return the schedule on a device."""
    steps = config.timesteps
    if config.schedule == "linear":
        betas = torch.linspace(config.beta_start, config.beta_end, steps, dtype=torch.float64)
    else:  # Nichol & Dhariwal eq. 17, s = 0.008, beta <= 0.999
        grid = torch.arange(steps + 1, dtype=torch.float64) / steps
        f = torch.cos((grid + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    alphas_bar = torch.cumprod(1 - betas, 0)
    return Schedule(
        config=config,
        betas=betas.to(device),
        alphas_bar=alphas_bar.to(device),
        signal=alphas_bar.sqrt().float().to(device),
        noise=(1 - alphas_bar).sqrt().float().to(device),
    )


def _rows(coefficients: Tensor) -> Tensor:
    return coefficients[:, None, None, None]  # (B,) -> (B, 1, 1, 1)
