"""The noise levels that a sampler goes through, and the step between two of them."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field
from torch import Tensor

from ..config import OfOneVariant
from ..processes import VP, EDMConfig, Level, Process, ProcessConfig, VPConfig
from ..processes.base import even_in_power
from .base import SamplerConfig

Spacing = Literal["trailing", "leading", "rho", "log_snr"]
"""trailing: even by the process's own clock, from pure noise to x_0. For vp, 50 steps of T = 1000 are 999,
979 .. 19, then x_0, as Lin et al. 2024 name it in table 2; for edm it is rho.
leading: vp alone: 980, 960 .. 0, and the image is what is left at abar_0, as in the released code of OC, on
which CALL builds: it starts from noise that no x_980 is, so prefer it only for numbers comparable with their
tables.
rho: the 7th roots of sigma / alpha are even (EDM, eq. 5), which spends more steps at low noise.
log_snr: ln(alpha / sigma) is even (Lu et al. 2022, DPM-Solver, section 3.4)."""

OwnSteps = Annotated[int, OfOneVariant()]
"""Steps of one sampler, which say nothing for another with other calls and another order."""

END = Level(math.nan, 1.0, 0.0)
"""x_0 itself, where no network is asked."""


class GridSampler(SamplerConfig):
    """A sampler that goes through a number of noise levels by a spacing."""

    steps: int = Field(ge=1)
    spacing: Spacing

    def levels(self, process: Process) -> list[Level]:
        """Return levels from noise to image; `END` is the last, except for `leading`."""
        return levels(process, self.spacing, self.steps)

    def calls(self, process: ProcessConfig) -> int:
        """Return the number of steps; see `SamplerConfig`."""
        return self.effective(process).steps

    def effective(self, process: ProcessConfig) -> Self:
        """Return the config with the steps and the spacing that are taken; see `SamplerConfig`."""
        if self.spacing in ("trailing", "leading") and isinstance(process, VPConfig):
            return self.model_copy(update={"steps": min(self.steps, process.timesteps)})
        if self.spacing == "trailing" and isinstance(process, EDMConfig):
            return self.model_copy(update={"spacing": "rho"})
        return self

    @property
    def label(self) -> str:
        """Name and steps, and what is not at its default."""
        fields = type(self).model_fields.items()
        changed = (
            f", {key} {value:g}" if isinstance(value, float) else f", {key} {value}"
            for key, field in fields
            if key not in ("name", "steps") and (value := getattr(self, key)) != field.default
        )
        return f"{self.name} {self.steps} steps{''.join(changed)}"


class MultistepSampler(GridSampler):
    """A sampler of higher order that remembers predictions, so that it needs one call a step."""

    steps: OwnSteps = Field(20, ge=1)
    """Calls of the network; at most T of vp with trailing."""
    spacing: Annotated[Literal["trailing", "rho", "log_snr"], OfOneVariant()] = "log_snr"
    """Which noise levels. In 10 calls UniPC by log_snr was as good as DDIM in 50 on three trainings of digits, and
    trailing worse on their rare classes."""


def levels(process: Process, spacing: Spacing, steps: int) -> list[Level]:
    """Return levels from noise to image; `END` is the last, except for `leading`.

    Args:
        steps: levels without `END`; vp has T at most with trailing and leading.
    """
    low, high = process.ratios
    match spacing:
        case "trailing":
            times = list(process.clock(steps))
        case "leading":
            assert isinstance(process, VP), "check() refuses others"
            timesteps = process.config.timesteps
            steps = min(steps, timesteps)
            # OC's released code takes one step more, from 0 to 0, which changes nothing.
            times = [timesteps * k // steps for k in reversed(range(steps))]
        case "rho":
            times = [process.time_of(r) for r in even_in_power(high, low, steps)]
        case "log_snr":
            gap = math.log(low / high) / max(1, steps - 1)
            times = [process.time_of(high * math.exp(i * gap)) for i in range(steps)]
    at = [process.level(t) for t in times]
    return at if spacing == "leading" else [*at, END]


def advance(x_t: Tensor, t: Level, s: Level, x_0: Tensor) -> Tensor:
    """Return x_s, (B, C, H, W), as the probability flow has it where x_0 is the same from t to s.

    x_s = sigma_s / sigma_t x_t + alpha_s (1 - e^-h) x_0,  h = ln(alpha_s / sigma_s) - ln(alpha_t / sigma_t)

    This is the deterministic DDIM, and Euler's step for x / alpha over sigma / alpha. alpha_t = 0 has h =
    inf, and s = `END` gives x_0.

    Args:
        x_t: (B, C, H, W).
        x_0: (B, C, H, W).
    """
    return s.sigma / t.sigma * x_t + s.alpha * (1 - s.ratio / t.ratio) * x_0
