"""dpmpp_2m: the second-order multistep DPM-Solver++, Lu et al. 2022 (arXiv 2211.01095), algorithm 2.

From t to s, with x_0' of the level before t, l = ln(alpha / sigma) and r = (l_t - l_t') / (l_s - l_t):

    x_s = sigma_s / sigma_t x_t - alpha_s (e^-h - 1) ((1 + 1 / (2 r)) x_0 - 1 / (2 r) x_0')
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from torch import Tensor

from ..processes import Level, Process
from .base import Denoise, Noise
from .grid import MultistepSampler, advance

Earlier = tuple[Level, Tensor]
"""A level and x_0 (B, C, H, W) that was predicted there."""


class DPMSolver2MSampler(MultistepSampler):
    """Second order, one call a step."""

    name: Literal["dpmpp_2m"] = "dpmpp_2m"

    def __call__(self, denoise: Denoise, noise: Noise, process: Process) -> Tensor:
        """Return x_0; see `SamplerConfig`."""
        grid = self.levels(process)
        x = grid[0].sigma * noise(0)
        earlier: Earlier | None = None
        for t, s in pairwise(grid):
            x_0 = denoise(x, t)
            x = advance(x, t, s, extrapolated(x_0, earlier, t, s))
            earlier = t, x_0
        return x


def extrapolated(x_0: Tensor, earlier: Earlier | None, t: Level, s: Level) -> Tensor:
    """Return x_0 as it is halfway from t to s on a line through two predictions, (B, C, H, W).

    The first step has one prediction, and on the last, to x_0 itself, the line has no end: both are of first
    order.

    Args:
        x_0: the prediction at t, (B, C, H, W).
        earlier: that of the level before.
    """
    if earlier is None or s.sigma == 0:
        return x_0
    before, x_0_before = earlier
    r = (t.log_snr - before.log_snr) / (s.log_snr - t.log_snr)  # inf where alpha was 0
    return x_0 + (x_0 - x_0_before) / (2 * r)
