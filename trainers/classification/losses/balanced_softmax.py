"""balanced_softmax: Ren et al. 2020.

    l = -log (n_y exp(logit_y) / sum_c n_c exp(logit_c))        (eq. 3 and 4)

It is logit adjustment with tau 1: counts and shares differ by a constant, which no softmax sees.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from .base import LossConfig
from .logit_adjustment import LogitAdjustment


class BalancedSoftmaxConfig(LossConfig):
    """A softmax in which each class counts by its training images."""

    name: Literal["balanced_softmax"] = "balanced_softmax"

    def build(self, counts: Tensor) -> LogitAdjustment:
        """Build the loss; see `ClassifierLoss`."""
        return LogitAdjustment(counts, tau=1.0)
