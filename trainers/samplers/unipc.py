"""unipc: UniPC of order 2 with B(h) = e^h - 1 ("bh2"), Zhao et al. 2023 (arXiv 2302.04867), predicting x_0.

The predictor UniP-2 is a step of dpmpp_2m. Where it leads to, the network is asked for the next step anyway;
the corrector UniC-2 takes the step to s again with this x_0_s and comes to order 3. With x_0' of the level
before t, l = ln(alpha / sigma), h = l_s - l_t and r = (l_t' - l_t) / h < 0, both are a step of `advance` with

    x_0 + rho_1 (x_0' - x_0) / r + rho_2 (x_0_s - x_0)

whose rho solve the conditions of order 2 (theorem 3.1 there):

    rho_1 + rho_2 = b_1        r rho_1 + rho_2 = b_2        b_k = k! z phi_k+1(z) / (e^z - 1), z = -h
    phi_1(z) = (e^z - 1) / z        phi_k+1(z) = (phi_k(z) - 1 / k!) / z
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

from torch import Tensor

from ..processes import Level, Process
from .base import Denoise, Noise
from .dpmpp_2m import Earlier, extrapolated
from .grid import MultistepSampler, advance


class UniPCSampler(MultistepSampler):
    """Second order and a corrector, one call a step."""

    name: Literal["unipc"] = "unipc"

    def __call__(self, denoise: Denoise, noise: Noise, process: Process) -> Tensor:
        """Return x_0; see `SamplerConfig`."""
        grid = self.levels(process)
        x = grid[0].sigma * noise(0)
        x_0 = denoise(x, grid[0])
        earlier: Earlier | None = None
        for t, s in pairwise(grid):
            predicted = advance(x, t, s, extrapolated(x_0, earlier, t, s))
            if s.sigma == 0:
                return predicted
            x_0_s = denoise(predicted, s)
            x = advance(x, t, s, interpolated(x_0, earlier, x_0_s, t, s))
            earlier, x_0 = (t, x_0), x_0_s
        raise AssertionError("a grid without leading ends at x_0")


def interpolated(x_0: Tensor, earlier: Earlier | None, x_0_s: Tensor, t: Level, s: Level) -> Tensor:
    """Return the x_0 of the corrector's step from t to s, (B, C, H, W).

    Args:
        x_0: the prediction at t, (B, C, H, W).
        earlier: that of the level before; None at the first step, where the corrector is of order 1.
        x_0_s: that of where the predictor led to, (B, C, H, W).
    """
    if earlier is None:
        return x_0 + (x_0_s - x_0) / 2
    before, x_0_before = earlier
    h = s.log_snr - t.log_snr
    r = (before.log_snr - t.log_snr) / h  # -inf where alpha was 0
    b = math.expm1(-h)
    z_phi_2 = b / -h - 1
    z_phi_3 = z_phi_2 / -h - 1 / 2
    b_1, b_2 = z_phi_2 / b, 2 * z_phi_3 / b
    rho_1 = (b_1 - b_2) / (1 - r)
    rho_2 = b_1 - rho_1
    return x_0 + rho_1 / r * (x_0_before - x_0) + rho_2 * (x_0_s - x_0)
