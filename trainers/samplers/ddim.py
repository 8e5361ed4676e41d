"""ddim: Song et al. 2021, in any number of steps, for any process.

    x_s = alpha_s x_0 + sqrt(sigma_s^2 - c^2) eps + c z        (eq. 12)
    c = eta sigma_s sqrt(1 - (sigma_s / alpha_s)^2 / (sigma_t / alpha_t)^2)        (eq. 16)

Eq. 16 is written for alpha^2 + sigma^2 = 1; this is the same for any scale of x_t.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from ..config import OfOneVariant
from ..processes import Process, ProcessConfig, VPConfig
from .base import Denoise, Noise
from .grid import GridSampler, OwnSteps, Spacing


class DDIMSampler(GridSampler):
    """First order, one call a step."""

    name: Literal["ddim"] = "ddim"
    steps: OwnSteps = Field(50, ge=1)
    """Calls of the network; at most T of vp with trailing and leading."""
    spacing: Annotated[Spacing, OfOneVariant()] = "trailing"
    """Which noise levels: trailing, leading (vp alone), rho or log_snr."""
    eta: float = Field(0.0, ge=0, le=1)
    """Noise added at each step; 0 is deterministic."""

    def __call__(self, denoise: Denoise, noise: Noise, process: Process) -> Tensor:
        """Return x_0; see `SamplerConfig`."""
        grid = self.levels(process)
        # leading: as released, from unit noise also where some signal should be left in x_t
        x_t = noise(0) if self.spacing == "leading" else grid[0].sigma * noise(0)
        for k, (t, s) in enumerate(pairwise(grid)):
            x_0 = denoise(x_t, t)
            # of the clipped x_0, so that the two agree with x_t
            eps = (x_t - t.alpha * x_0) / t.sigma
            fresh = self.eta * s.sigma * math.sqrt(max(0.0, 1 - (s.ratio / t.ratio) ** 2))  # eq. 16
            x_t = s.alpha * x_0 + math.sqrt(max(0.0, s.sigma**2 - fresh**2)) * eps  # eq. 12
            if fresh > 0:
                x_t = x_t + fresh * noise(k + 1)
        return x_t

    def calls(self, process: ProcessConfig) -> int:
        """Return the number of steps; see `SamplerConfig`."""
        # the last level of leading is where the image is taken
        return super().calls(process) - (self.spacing == "leading")

    def check(self, process: ProcessConfig) -> None:
        """Check that the process has the spacing, and that leading leads somewhere; see `SamplerConfig`."""
        if self.spacing != "leading":
            return
        if not isinstance(process, VPConfig):
            raise ValueError(  # noqa: TRY004  (pydantic reports a ValueError as a problem of the config)
                "spacing=leading counts the steps of process vp: set sampling.sampler.spacing to trailing, "
                "rho or log_snr"
            )
        if self.steps == 1:
            raise ValueError("spacing=leading ends where it starts with steps=1: take more steps")
