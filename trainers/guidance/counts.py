"""counts: classifier-free guidance that grows or falls with the rarity of a class.

omega(N_c) = max(0, omega + slope ln(N_max / N_c))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..data.groups import GroupsConfig
from .base import GuidanceConfig
from .cfg import ClassifierFree


class CountGuidance(GuidanceConfig):
    """The strength of a class follows from its training images."""

    strength: ClassVar[tuple[str, ...]] = ("omega", "slope")

    name: Literal["counts"] = "counts"
    omega: float = Field(0.0, ge=0)
    """Strength, as of cfg, for the class with the most training images."""
    slope: float = 0.0
    """How much more there is for a class with 2.72 times fewer; below 0, less."""

    def strengths(self, class_counts: Sequence[int]) -> Tensor:
        """Return omega for each class, (num_classes,) float32."""
        counts = torch.tensor(class_counts, dtype=torch.float64).clamp(min=1)
        omega = self.omega + self.slope * (counts.max() / counts).log()
        return omega.clamp(min=0).float()

    def effective(self, groups: GroupsConfig | None = None) -> GuidanceConfig:  # noqa: ARG002
        """Return cfg where all classes have the same strength; see `GuidanceConfig`."""
        return self if self.slope else ClassifierFree(omega=self.omega)

    @property
    def label(self) -> str:
        """The guidance in a few words."""
        return f"omega {self.omega:g} {self.slope:+g} ln(N_max / N)"
