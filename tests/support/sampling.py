"""Sampling settings, in few words."""

from __future__ import annotations

from typing import Any

from whipray.trainers.guidance import ClassifierFree
from whipray.trainers.samplers import DDIMSampler
from whipray.trainers.sampling import SamplingConfig


def ddim(steps: int = 50, omega: float = 0.0, **others: Any) -> SamplingConfig:
    """Return DDIM with classifier-free guidance."""
    sampler, guidance = DDIMSampler(steps=steps), ClassifierFree(omega=omega)
    return SamplingConfig(sampler=sampler, guidance=guidance, **others)
