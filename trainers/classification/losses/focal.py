"""focal: Lin et al. 2017.

    l = -(1 - p)^gamma log p        (eq. 4)

p is the probability of the true class. Their alpha, which weighs a detector's background, has no
counterpart among classes.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .base import ClassifierLoss, LossConfig


class FocalLossConfig(LossConfig):
    """Cross entropy that weighs badly predicted images more; it does not use the counts."""

    name: Literal["focal"] = "focal"
    gamma: float = Field(1.0, ge=0)
    """Focusing exponent; 0 is cross entropy. 1 is LDAM-DRW's baseline on CIFAR-LT, 2 the best of Lin
    et al. for detection."""

    def build(self, counts: Tensor) -> FocalLoss:
        """Build the loss; see `ClassifierLoss`."""
        return FocalLoss(counts, self.gamma)


class FocalLoss(ClassifierLoss):
    """The gradient flows through the weight too."""

    def __init__(self, counts: Tensor, gamma: float) -> None:
        super().__init__(counts)
        self.gamma = gamma

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image; see `ClassifierLoss`."""
        entropy = F.cross_entropy(logits, labels, reduction="none")  # -log p, (B,)
        miss = -(-entropy).expm1()  # 1 - p
        # Not exactly 0, where autograd makes NaN of the power below 1; the gradient there is 0.
        focus = miss.clamp(min=torch.finfo(miss.dtype).tiny) ** self.gamma
        return focus * entropy
