"""drw: cross entropy with deferred re-weighting (Cao et al. 2019)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from .base import LossConfig
from .ce import CrossEntropy
from .deferred import deferred_weights


class DRWConfig(LossConfig):
    """Cross entropy, whose classes weigh by their effective number after 8/10 of the epochs."""

    name: Literal["drw"] = "drw"
    beta: float = Field(0.9999, ge=0, lt=1)
    """beta of the effective number (Cui et al. 2019)."""

    def build(self, counts: Tensor) -> DRW:
        """Build the loss; see `ClassifierLoss`."""
        return DRW(counts, self)


class DRW(CrossEntropy):
    """Cross entropy with weights of classes."""

    def __init__(self, counts: Tensor, config: DRWConfig) -> None:
        super().__init__(counts)
        self.config = config

    def class_weights(self, epoch: int, epochs: int) -> Tensor:
        """Return the weight of each class; see `deferred_weights`."""
        return deferred_weights(self.counts, epoch, epochs, self.config.beta)
