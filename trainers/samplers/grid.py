"""The noise levels that a sampler goes through."""

from __future__ import annotations

import math
from typing import Literal

from ..processes import Level, Process, ProcessConfig
from ..processes.base import even_in_power

Spacing = Literal["trailing", "leading", "rho", "log_snr"]
"""trailing: even by the process's own clock, from pure noise to x_0. For vp, 50 steps of T = 1000 are 999,
979 .. 19, then x_0, as Lin et al. 2024 name it in table 2; for edm it is rho.
leading: vp alone: 980, 960 .. 0, and the image is what is left at abar_0, as in the released code of OC, on
which CALL builds: it starts from noise that no x_980 is, so prefer it only for numbers comparable with their
tables.
rho: the 7th roots of sigma / alpha are even (EDM, eq. 5), which spends more steps at low noise.
log_snr: ln(alpha / sigma) is even (Lu et al. 2022, DPM-Solver, section 3.4)."""

END = Level(math.nan, 1.0, 0.0)
"""x_0 itself, where no network is asked."""


def levels(process: Process, spacing: Spacing, steps: int) -> list[Level]:
    """Return levels from noise to image; `END` is the last, except for `leading`.

    Args:
        steps: levels without `END`; vp has T at most with trailing and leading.
    """
    high_to_low = process.ratios[::-1]
    match spacing:
        case "trailing":
            times = list(process.clock(steps))
        case "leading":
            timesteps = process.config.timesteps  # type: ignore[attr-defined]  # as check_spacing says
            steps = min(steps, timesteps)
            # OC's released code takes one step more, from 0 to 0, which changes nothing.
            times = [timesteps * k // steps for k in reversed(range(steps))]
        case "rho":
            times = [process.time_of(r) for r in even_in_power(*high_to_low, steps)]
        case "log_snr":
            first, last = map(math.log, high_to_low)
            logs = (first + i / max(1, steps - 1) * (last - first) for i in range(steps))
            times = [process.time_of(math.exp(log)) for log in logs]
    at = [process.level(t) for t in times]
    return at if spacing == "leading" else [*at, END]


def check_spacing(spacing: Spacing, steps: int, process: ProcessConfig) -> None:
    """Check that a process has a spacing.

    Raises:
        ValueError: leading without whole times, or with one step, which ends where it starts.
    """
    if spacing == "leading" and not hasattr(process, "timesteps"):
        raise ValueError(
            f"spacing=leading counts the steps of process vp, not of {process.name}: "  # type: ignore[attr-defined]
            "set sampling.sampler.spacing=trailing"
        )
    if spacing == "leading" and steps == 1:
        raise ValueError("spacing=leading ends where it starts with steps=1: take more steps")
