"""The settings of the feature network's training, read without PyTorch."""

from __future__ import annotations

from pydantic import Field

from ..config import Config


class SmallResNetConfig(Config):
    """How the network is trained."""

    epochs: int = Field(30, ge=1)
    """Passes over the reference images; 30 are seconds for 740 digits, minutes for 10,000 CIFAR
    images on a CPU."""

    learning_rate: float = Field(2e-3, gt=0)
    """Peak of the one-cycle schedule of AdamW."""

    weight_decay: float = Field(0.05, ge=0)
    """Of AdamW."""

    shift: int = Field(1, ge=0)
    """Largest shift of an image while training, pixels."""

    flips: bool = False
    """Mirror images while training; off, because digits and letters have a left and a right."""

    seed: int = Field(0, ge=0)
    """Of the split, the first weights, the order and the augmentation."""
