"""flow: the linear path from images to noise (Lipman et al. 2023, Liu et al. 2023); a time is s in (0, 1).

    x_s = (1 - s) x_0 + s eps        v = d x_s / d s = eps - x_0        x_0 = x_s - s v

s = 0 is the image and s = 1 noise, as in Esser et al. 2024; SiT and others count from noise to image. The loss
is || v_theta - v ||^2 without a weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..randomness import BatchRandom
from .base import Process, ProcessConfig

EDGE = 1e-5
"""Distance of trained times from 0 and 1, where no noise, or no image, is left."""


class FlowConfig(ProcessConfig):
    """How times are sampled in training."""

    free: ClassVar[tuple[str, ...]] = ("times", "location", "scale")

    name: Literal["flow"] = "flow"
    times: Literal["uniform", "logit_normal"] = "uniform"
    """uniform: SiT's; logit_normal: ln(s / (1 - s)) is normal, Esser et al. 2024, eq. 19."""
    location: float = 0.0
    """Mean of ln(s / (1 - s)); read by logit_normal. 0 and 1 are Esser et al.'s."""
    scale: float = Field(1.0, gt=0)
    """Standard deviation of ln(s / (1 - s)); read by logit_normal."""

    def build(self, device: torch.device | str = "cpu") -> Flow:
        """Build the process."""
        return Flow(self, torch.device(device))


class Flow(Process):
    """A `t` is s, float64; the network predicts v."""

    ratios = (0.002, 80.0)
    """The smallest and the largest sigma / alpha of a sampler's grid: EDM's."""

    def __init__(self, config: FlowConfig, device: torch.device) -> None:
        self.config, self.device = config, device

    def sample_times(self, rng: BatchRandom) -> Tensor:
        """Sample s, (B,) float64."""
        u = rng.uniform("t")[:, 0]  # (B,) in [0, 1)
        if self.config.times == "logit_normal":
            z = torch.special.ndtri(u.clamp(min=2**-53))
            u = (self.config.location + self.config.scale * z).sigmoid()
        return u.clamp(EDGE, 1 - EDGE)

    def alpha(self, t: Tensor) -> Tensor:
        """Return 1 - s."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """Return s."""
        return t

    def skip_and_out(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 and -s."""
        return torch.ones_like(t), -t

    def target(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:  # noqa: ARG002
        """Return v = eps - x_0, (B, C, H, W) float32."""
        return eps - x_0

    def network_input(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return x_t, and 1000 s, the range of times for which sinusoidal features are made."""
        return x_t, (1000 * t).float()

    def progress(self, t: Tensor) -> Tensor:
        """Return s."""
        return t

    def time_of(self, ratio: float) -> float:
        """Return s = ratio / (1 + ratio)."""
        return ratio / (1 + ratio) if math.isfinite(ratio) else 1.0

    def clock(self, steps: int) -> Sequence[float]:
        """Return s = 1 .. 1 / steps, evenly."""
        return [(steps - k) / steps for k in range(steps)]
