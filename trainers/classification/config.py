"""Settings of a classifier's training; imports no PyTorch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..config import Config


class ClassificationConfig(Config):
    """How the classifier is trained; the defaults are LDAM-DRW's with cross entropy."""

    epochs: int = Field(200, ge=1)
    """Passes over the images. The learning rate's schedule scales with it: warm-up over the first
    1/40, x 0.01 after 8/10, x 0.0001 after 9/10, which at 200 are the epochs 5, 160 and 180."""

    epoch_of: Literal["all", "real"] = "all"
    """Length of an epoch when images are added (the papers do not say). all: every training image, so
    that more images also mean more steps. real: the number of real ones, so that all classifiers take
    the same number of steps."""

    lr: float = Field(0.1, gt=0)
    """Highest learning rate of SGD."""

    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD; not Nesterov's."""

    weight_decay: float = Field(2e-4, ge=0)
    """Weight decay of all parameters."""

    batch_size: int = Field(128, ge=1)
    """Images per step; the last batch of an epoch may be smaller."""

    pad: int | None = Field(None, ge=0)
    """Pixels of black around an image before a random crop of its own size. None: an eighth of its
    height, which is the recipe's 4 for CIFAR."""

    flip: bool | None = None
    """Mirror half of the training images left to right. None: where the diffusion model's training does
    (`data.flip`, or an augmentation that mirrors)."""

    normalise: Literal["data", "cifar"] = "data"
    """data: by mean and deviation of each channel over the real training images. cifar: by the
    recipe's constants, for RGB only (its deviations are a fifth smaller than CIFAR's)."""

    loss: Literal["ce", "drw"] = "ce"
    """ce: cross entropy. drw: deferred re-weighting, classes weighted by their effective number of
    images after 8/10 of the epochs."""

    drw_beta: float = Field(0.9999, ge=0, lt=1)
    """beta of the effective number (Cui et al. 2019)."""

    generated_weight: float = Field(1.0, ge=0)
    """omega of DiffuLT eq. 4, the weight of a generated image where a real one has 1; its authors
    use 0.3 for CIFAR. Copies that stand in for generated images weigh as much."""
