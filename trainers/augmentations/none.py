"""No augmentation."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ..randomness import BatchRandom
from .base import AugmentationConfig


class NoAugmentation(AugmentationConfig):
    """No augmentation but for `data.flip`."""

    name: Literal["none"] = "none"

    def __call__(self, images: Tensor, rng: BatchRandom) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002
        """Return the images as they are; see `AugmentationConfig`."""
        return images, None
