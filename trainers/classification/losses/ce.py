"""ce: cross entropy."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from .base import ClassifierLoss, LossConfig


class CrossEntropyConfig(LossConfig):
    """Every image weighs alike, so that a class weighs as much as it has images."""

    name: Literal["ce"] = "ce"

    def build(self, counts: Tensor) -> CrossEntropy:
        """Build the loss; it does not use the counts."""
        return CrossEntropy(counts)


class CrossEntropy(ClassifierLoss):
    """-log softmax(logits)_y."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image; see `ClassifierLoss`."""
        return F.cross_entropy(logits, labels, reduction="none")
