"""heun: Karras et al. 2022 ("EDM"), algorithm 1, and algorithm 2 with `s_churn` above 0.

For any alpha and sigma by r = sigma / alpha and y = x / alpha, of which EDM's d y / d r = (y - x_0) / r holds.
With q = r_s / r_t, and x_0' at what Euler's step leads to, the mean of both slopes is

    y_s = q y_t + (1 - q) x_0 + (1 / q - 1) / 2 (x_0' - x_0)

which is algorithm 1 without the difference of large numbers. The last step is Euler's, to x_0 itself.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field
from torch import Tensor

from ..config import OfOneVariant
from ..processes import Level, Process, ProcessConfig
from .base import Denoise, Noise
from .grid import GridSampler, OwnSteps, advance


class HeunSampler(GridSampler):
    """Second order, two calls a step but for the last one."""

    name: Literal["heun"] = "heun"
    steps: OwnSteps = Field(18, ge=1)
    """N of 2 N - 1 calls of the network; EDM has 18 for CIFAR-10 and 40 or 256 for ImageNet-64."""
    spacing: Annotated[Literal["rho", "log_snr"], OfOneVariant()] = "rho"
    """Which noise levels. There is no trailing: from sigma / alpha of 1000s, Euler's step is no guess."""
    s_churn: float = Field(0.0, ge=0)
    """How much noise is put back on the way; 0 is deterministic, 40 EDM's for ImageNet-64."""
    s_min: float = Field(0.0, ge=0)
    """The lowest sigma / alpha at which it is; 0.05 there."""
    s_max: float | None = Field(None, gt=0)
    """The highest, None without limit; 50 there."""
    s_noise: float = Field(1.0, gt=0)
    """Its standard deviation; 1.003 there."""

    def __call__(self, denoise: Denoise, noise: Noise, process: Process) -> Tensor:
        """Return x_0; see `SamplerConfig`."""
        grid = self.levels(process)
        x = grid[0].sigma * noise(0)
        for k, (level, s) in enumerate(pairwise(grid)):
            t = self._raised(level, process)
            if t.ratio > level.ratio:  # algorithm 2, lines 5 and 6
                fresh = self.s_noise * math.sqrt(t.ratio**2 - level.ratio**2)
                x = t.alpha / level.alpha * x + t.alpha * fresh * noise(k + 1)
            else:
                t = level
            x_0 = denoise(x, t)
            x = advance(x, t, s, x_0)  # lines 7 and 8
            if s.sigma > 0:  # lines 10 and 11
                x = x + s.alpha * (t.ratio / s.ratio - 1) / 2 * (denoise(x, s) - x_0)
        return x

    def _raised(self, level: Level, process: Process) -> Level:
        """Return the level to which noise is put back, algorithm 2, lines 4 and 5; at most the process's last."""
        if not self.s_churn or not self.s_min <= level.ratio <= (self.s_max or math.inf):
            return level
        gamma = min(self.s_churn / self.steps, math.sqrt(2) - 1)
        return process.level(process.time_of((1 + gamma) * level.ratio))

    def calls(self, process: ProcessConfig) -> int:  # noqa: ARG002
        """Return 2 N - 1; see `SamplerConfig`."""
        return 2 * self.steps - 1

    def effective(self, process: ProcessConfig) -> Self:  # noqa: ARG002
        """Return the config without what is not read; see `SamplerConfig`."""
        if self.s_churn:
            return self
        unread = ("s_min", "s_max", "s_noise")
        return self.model_copy(update={key: type(self).model_fields[key].default for key in unread})
