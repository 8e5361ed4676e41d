"""The contract of a classifier's loss, and how the losses of images make one of a batch.

A loss gives a number for each image, and a weight for each class. What it knows of the training
images are their counts, in which a generated image counts `classification.generated_weight`: the
classes are as uneven as what the sum of DiffuLT's eq. 4 holds of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ...config import Config


class ClassifierLoss(ABC):
    """A loss on logits.

    Args:
        counts: (C,) float64, images of each class; a class may have none, not all of them.
    """

    def __init__(self, counts: Tensor) -> None:
        self.counts = counts

    @abstractmethod
    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image, (B, C) and (B,) int64 -> (B,)."""

    def class_weights(self, epoch: int, epochs: int) -> Tensor:  # noqa: ARG002
        """Return the weight of each class, (C,) float32 with mean 1, on the counts' device.

        Args:
            epoch: of `epochs`, counted from 0.
        """
        return torch.ones(len(self.counts), device=self.counts.device)


class LossConfig(Config, ABC):
    """Settings of a loss."""

    @property
    def head_scale(self) -> float | None:
        """S of logits that are s times a cosine, for a loss that needs those; None: a linear layer."""
        return None

    @abstractmethod
    def build(self, counts: Tensor) -> ClassifierLoss:
        """Build the loss; see `ClassifierLoss`."""


def weighted_loss(of_each: Tensor, by_class: Tensor, of_image: Tensor) -> Tensor:
    """Return the loss of a batch, a weighted mean, ().

    DiffuLT eq. 4 is a sum over all images. Divided by the batch's class weights (its size, where all
    are 1) and not by its image weights, the steps of an epoch add up to that sum: omega scales what
    generated images contribute, and never what real ones do.

    Args:
        of_each: (B,) loss of each image.
        by_class: (B,) weight of each image's class; divided by, as PyTorch and LDAM-DRW do.
        of_image: (B,), 1 for a real image and `generated_weight` for another.
    """
    # a batch of nothing but classes without weight has the loss 0, not 0 / 0
    total = by_class.sum().clamp_min(torch.finfo(by_class.dtype).tiny)
    return (of_image * by_class * of_each).sum() / total
