"""The contract of an augmentation."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from ..config import Config
from ..randomness import BatchRandom


class AugmentationConfig(Config):
    """An augmentation is its config: a pure function of images and random numbers."""

    numbers: ClassVar[int] = 0
    """Numbers per image that the network is conditioned on; 0 for none."""
    flips: ClassVar[bool] = False
    """Whether it mirrors images itself, so that `data.flip` has to be off."""

    @abstractmethod
    def __call__(self, images: Tensor, rng: BatchRandom) -> tuple[Tensor, Tensor | None]:
        """Augment a batch.

        Args:
            images: (B, C, H, W) float32 in [-1, 1], on the training device.
            rng: the random numbers of these B rows, and the only ones.

        Returns:
            images of the same shape, which may leave [-1, 1] a little, and (B, numbers) float32 on
            the same device, None for none.
        """
