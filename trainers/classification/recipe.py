"""Learning rate and normalisation of LDAM-DRW's code (Cao et al. 2019) and of Kang et al. 2020."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from ..data import PackedImages
from ..errors import UsageProblem
from .config import ClassificationConfig

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""Normalisation of both CIFAR-10 and CIFAR-100 in the long-tail literature."""


def learning_rate(epoch: int, config: ClassificationConfig) -> float:
    """Return the learning rate of an epoch, counted from 0, by the schedule that `epochs` scales."""
    if config.lr_schedule == "cosine":  # Loshchilov & Hutter 2017, eq. 5, without restarts
        return config.lr * (1 + math.cos(math.pi * epoch / config.epochs)) / 2
    if (epoch + 1) * 40 <= config.epochs:
        return config.lr * (epoch + 1) * 40 / config.epochs  # lr * ep / 5 at 200 epochs
    if epoch * 10 >= config.epochs * 9:
        return config.lr * 0.0001
    if epoch * 10 >= config.epochs * 8:
        return config.lr * 0.01
    return config.lr


@dataclass(frozen=True)
class Normaliser:
    """(image - mean) / deviation, channel by channel."""

    mean: Tensor  # (C, 1, 1) float32, in bytes
    deviation: Tensor

    @classmethod
    def of(cls, real: PackedImages, kind: Literal["data", "cifar"], device: torch.device) -> Self:
        """Build from the real training images, or from CIFAR's constants.

        Raises:
            UsageProblem: constants of RGB for other images.
        """
        channels = real.image_shape[0]
        if kind == "cifar":
            if channels != 3:
                raise UsageProblem(
                    f"classification.normalise=cifar is for RGB, the images have {channels} channels",
                    "set classification.normalise=data",
                )
            mean, deviation = np.array(CIFAR_MEAN) * 255, np.array(CIFAR_STD) * 255
        else:
            mean, deviation = _moments(real)

        return cls.by(mean.tolist(), deviation.tolist(), device)

    @classmethod
    def by(cls, mean: Sequence[float], deviation: Sequence[float], device: torch.device) -> Self:
        """Build from the numbers of each channel, in bytes."""
        return cls(
            *(
                torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
                for values in (mean, deviation)
            )
        )

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise (B, C, H, W) uint8 -> float32."""
        return images.float().sub_(self.mean).div_(self.deviation)


def _moments(packed: PackedImages, block: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of each channel, (C,) float64 each; sums of integers, so exact."""
    total = np.zeros((2, packed.image_shape[0]))
    for first in range(0, len(packed.images), block):
        values = packed.images[first : first + block].astype(np.float64)
        total += [values.sum((0, 2, 3)), np.square(values).sum((0, 2, 3))]
    mean, square = total / (math.prod(packed.images.shape) / packed.image_shape[0])
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    return mean, np.where(deviation > 0, deviation, 1.0)
