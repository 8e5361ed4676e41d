"""logit_adjustment: the loss of Menon et al. 2021.

    l = -log softmax(logits + tau log pi)_y        (eq. 10)

pi is the share of each class in the training images. The trained network's own logits are for even
classes, and are used as they are. Their post-hoc variant, which changes the logits of a network that
was trained by cross entropy, is another method.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .base import ClassifierLoss, LossConfig


class LogitAdjustmentConfig(LossConfig):
    """Cross entropy on logits to which each class's log share is added while training."""

    name: Literal["logit_adjustment"] = "logit_adjustment"
    tau: float = Field(1.0, ge=0)
    """Factor of the log share; 0 is cross entropy, 1 balanced softmax."""

    def build(self, counts: Tensor) -> LogitAdjustment:
        """Build the loss; see `ClassifierLoss`."""
        return LogitAdjustment(counts, self.tau)


class LogitAdjustment(ClassifierLoss):
    """Cross entropy with a shift of logits."""

    def __init__(self, counts: Tensor, tau: float) -> None:
        super().__init__(counts)
        # A class without images has a share that is not 0, of which there is no logarithm.
        shares = (counts / counts.sum()).clamp_min(1e-12)
        self.shift = (tau * shares.log()).float()  # (C,)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image; see `ClassifierLoss`."""
        return F.cross_entropy(logits + self.shift, labels, reduction="none")
