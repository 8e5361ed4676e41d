"""ldam: label-distribution-aware margins (Cao et al. 2019).

    l = -log softmax(s (cos - m_y e_y))_y        (section 3.2, scaled as in the released code)
    m_c = K n_c^(-1/4)

K is such that the largest margin is `max_margin`; cos are the cosines between an image's features and
each class's weights, and e_y is 1 at the true class and 0 elsewhere.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .base import ClassifierLoss, LossConfig
from .deferred import deferred_weights


class LDAMConfig(LossConfig):
    """Margins that are larger for rarer classes; by itself LDAM-DRW. The network's last layer is normalised."""

    name: Literal["ldam"] = "ldam"
    max_margin: float = Field(0.5, ge=0)
    """Margin of the rarest class, in cosines."""
    scale: float = Field(30.0, gt=0)
    """s, by which cosines are multiplied; in training and in the probabilities of the trained network."""
    drw: bool = True
    """Re-weight the classes after 8/10 of the epochs."""
    beta: float = Field(0.9999, ge=0, lt=1)
    """beta of the effective number (Cui et al. 2019), with `drw`."""

    @property
    def head_scale(self) -> float:
        """See `LossConfig`."""
        return self.scale

    def build(self, counts: Tensor) -> LDAM:
        """Build the loss; see `ClassifierLoss`."""
        return LDAM(counts, self)


class LDAM(ClassifierLoss):
    """Cross entropy with a margin; its logits are `scale` times cosines."""

    def __init__(self, counts: Tensor, config: LDAMConfig) -> None:
        super().__init__(counts)
        self.config = config
        margins = counts.where(counts > 0, counts[counts > 0].min()) ** -0.25  # (C,)
        self.margins = (margins * (config.max_margin / margins.max())).float()

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image; see `ClassifierLoss`."""
        true_class = F.one_hot(labels, len(self.margins))  # (B, C)
        return F.cross_entropy(
            logits - self.config.scale * self.margins * true_class, labels, reduction="none"
        )

    def class_weights(self, epoch: int, epochs: int) -> Tensor:
        """Return the weight of each class; see `deferred_weights`."""
        if not self.config.drw:
            return super().class_weights(epoch, epochs)
        return deferred_weights(self.counts, epoch, epochs, self.config.beta)
