"""cfg: classifier-free guidance, Ho & Salimans 2022, as CBDM section 3.1 writes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from .base import GuidanceConfig


class ClassifierFree(GuidanceConfig):
    """The same strength for all classes at all noise levels."""

    name: Literal["cfg"] = "cfg"
    omega: float = Field(0.0, ge=0)
    """Strength: eps_c + omega (eps_c - eps_u). 0 is plain conditional sampling."""

    def strengths(self, class_counts: Sequence[int]) -> Tensor:
        """Return omega for each class, (num_classes,) float32."""
        return torch.full((len(class_counts),), self.omega)

    @property
    def label(self) -> str:
        """The guidance in a few words."""
        return f"omega {self.omega:g}"
