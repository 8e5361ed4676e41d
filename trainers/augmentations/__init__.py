"""Augmentations of training images: one file each, on whole batches, on the training device."""

from typing import Annotated

from pydantic import Field

from .ada import ADAConfig
from .base import AugmentationConfig
from .diffaug import DiffAugConfig
from .none import NoAugmentation

AnyAugmentation = Annotated[NoAugmentation | DiffAugConfig | ADAConfig, Field(discriminator="name")]

__all__ = ["ADAConfig", "AnyAugmentation", "AugmentationConfig", "DiffAugConfig", "NoAugmentation"]
