"""DiffAug: differentiable augmentation (Zhao et al., NeurIPS 2020), a baseline of CBDM's table 1.

It was made for GANs, whose discriminator sees real and generated images augmented alike. A diffusion
model that is not conditioned on the augmentation learns to generate augmented images: this leak
belongs to the baseline. Images may leave [-1, 1], as in the original; gaps are filled with 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn.functional import pad

from ..data.batches import crop
from ..randomness import BatchRandom
from .base import AugmentationConfig

Operation = Literal["color", "translation", "cutout"]


class DiffAugConfig(AugmentationConfig):
    """Colour jitter, translation and cutout of every image, without a condition of the network."""

    name: Literal["diffaug"] = "diffaug"
    policy: tuple[Operation, ...] = Field(("color", "translation", "cutout"), min_length=1)
    """Operations in their order. CBDM does not state which it used ("default threshold"); the
    default is DiffAug's own for CIFAR."""

    @field_validator("policy")
    @classmethod
    def _once_each(cls, value: tuple[Operation, ...]) -> tuple[Operation, ...]:
        if len(set(value)) < len(value):
            raise ValueError("an operation is named twice: each has one set of random numbers")
        return value

    def __call__(self, images: Tensor, rng: BatchRandom) -> tuple[Tensor, None]:
        """Augment a batch; see `AugmentationConfig`."""
        for name in self.policy:
            images = OPERATIONS[name](images, rng)
        return images, None


def color(images: Tensor, rng: BatchRandom) -> Tensor:
    """Add U(-0.5, 0.5) to brightness, scale saturation by U(0, 2) and contrast by U(0.5, 1.5).

    In this order. Saturation scales each pixel about its grey, contrast each image about its mean; a
    greyscale image has no saturation to change.
    """
    uniform = rng.uniform("diffaug.color", 3).float().to(images.device, non_blocking=True)
    brightness, saturation, contrast = uniform[:, :, None, None, None].unbind(1)  # (B, 1, 1, 1)
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)  # (B, 1, H, W)
    images = (images - grey) * (2 * saturation) + grey
    mean = images.mean((1, 2, 3), keepdim=True)  # (B, 1, 1, 1)
    return (images - mean) * (contrast + 0.5) + mean


def translation(images: Tensor, rng: BatchRandom) -> Tensor:
    """Shift by whole pixels, up to an eighth of the size, rounded, each way; fill with 0."""
    height, width = images.shape[2:]
    down, right = _share_of(height, 1 / 8), _share_of(width, 1 / 8)
    padded = pad(images, (right, right, down, down))
    top = rng.integers("diffaug.translation_y", 2 * down + 1)  # (B,)
    left = rng.integers("diffaug.translation_x", 2 * right + 1)
    top, left = (first.to(images.device, non_blocking=True) for first in (top, left))
    return crop(padded, top, left, (height, width))


def cutout(images: Tensor, rng: BatchRandom) -> Tensor:
    """Fill a rectangle of half the height and width, rounded, with 0; part of it may lie outside.

    Its centre is uniform over the image.
    """
    height, width = images.shape[2:]
    y = _covered(rng, "diffaug.cutout_y", height)[:, None, :, None]  # (B, 1, H, 1)
    x = _covered(rng, "diffaug.cutout_x", width)[:, None, None, :]  # (B, 1, 1, W)
    y, x = (covered.to(images.device, non_blocking=True) for covered in (y, x))
    return images.masked_fill(y & x, 0.0)


def _covered(rng: BatchRandom, stream: str, size: int) -> Tensor:
    """Return which positions along one axis lie in the rectangle, (B, size) bool, on the CPU."""
    length = _share_of(size, 1 / 2)
    # an even length is centred between pixels, of which there is one more position
    centre = rng.integers(stream, size + 1 - length % 2)[:, None]  # (B, 1)
    first = centre - length // 2
    position = torch.arange(size)
    return (position >= first) & (position < first + length)


def _share_of(size: int, share: float) -> int:
    """Return a share of a length in whole pixels; half a pixel counts as one, as in the authors' code."""
    return int(size * share + 0.5)


OPERATIONS: dict[Operation, Callable[[Tensor, BatchRandom], Tensor]] = {
    "color": color,
    "translation": translation,
    "cutout": cutout,
}
