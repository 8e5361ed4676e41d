"""interval: guidance between two noise levels, Kynkaanniemi et al. 2024, eq. 6.

    omega(sigma) = omega if low < sigma / alpha <= high, else 0

Outside of it the network is asked once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..data.groups import GroupsConfig
from ..processes import Level, ProcessConfig
from .base import GuidanceConfig
from .cfg import ClassifierFree


class IntervalGuidance(GuidanceConfig):
    """Classifier-free guidance between two noise levels, the same for all classes."""

    name: Literal["interval"] = "interval"
    omega: float = Field(0.0, ge=0)
    """Strength inside, as of cfg."""
    low: float = Field(0.19, ge=0)
    """Sigma / alpha above which there is guidance, whatever the process; 0.19 and 1.61 are Kynkaanniemi et
    al.'s for latents of ImageNet-512."""
    high: float = Field(1.61, gt=0)
    """Sigma / alpha up to which there is guidance."""

    @model_validator(mode="after")
    def _in_order(self) -> IntervalGuidance:
        if self.low >= self.high:
            raise ValueError(
                f"guidance between sigma / alpha {self.low:g} and {self.high:g} is at no noise level: "
                "set low below high"
            )
        return self

    def strengths(self, class_counts: Sequence[int]) -> Tensor:
        """Return omega for each class, (num_classes,) float32."""
        return torch.full((len(class_counts),), self.omega)

    def active(self, level: Level) -> bool:
        """Return whether a noise level is inside."""
        return self.low < level.ratio <= self.high

    def check(self, process: ProcessConfig) -> None:
        """Check that a process has noise levels inside; see `GuidanceConfig`."""
        known = process.model_copy(update=dict.fromkeys(process.measures, 1.0))  # changes no level
        lowest, highest = known.build().ratios
        if self.high < lowest or self.low >= highest:
            raise ValueError(
                f"guidance between sigma / alpha {self.low:g} and {self.high:g} is outside of the noise "
                f"levels of process {process.name}, {lowest:.2g} to {highest:.3g}: set "  # type: ignore[attr-defined]
                "sampling.guidance.low and high among them"
            )

    def effective(self, groups: GroupsConfig | None = None) -> GuidanceConfig:  # noqa: ARG002
        """Return cfg where there is no guidance; see `GuidanceConfig`."""
        return self if self.omega else ClassifierFree()

    @property
    def label(self) -> str:
        """The guidance in a few words."""
        return f"omega {self.omega:g} at sigma/alpha {self.low:g} to {self.high:g}"
