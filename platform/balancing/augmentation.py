"""Copies of real images that are each changed once: what an augmentation alone gives to a classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torchvision  # type: ignore[import-untyped]
from torchvision.transforms.v2 import TrivialAugmentWide  # type: ignore[import-untyped]

from ...trainers.data import PackedImages
from ...trainers.randomness import derive_seed

AUGMENTATION = f"torchvision {torchvision.__version__.partition('+')[0]} TrivialAugmentWide"
"""What changes the images; another version may change them otherwise."""


def augment(images: PackedImages, seed: int) -> PackedImages:
    """Change each image once by TrivialAugment's wide space (Müller & Hutter, ICCV 2021).

    The change is a function of (seed, class, index of the image in its class); the global random state
    is left as it was. What lies outside of the original is black.

    Args:
        images: (N, 1 or 3, H, W).
    """
    transform = _transform(min(images.image_shape[1:]))
    changed = np.empty(images.images.shape, np.uint8)
    seen = np.zeros(images.num_classes, np.int64)
    with torch.random.fork_rng(devices=[]):
        for row, label in enumerate(images.labels.tolist()):
            torch.default_generator.manual_seed(
                derive_seed(seed, "augmented", label, int(seen[label]))
            )
            changed[row] = transform(torch.from_numpy(images.images[row].copy())).numpy()
            seen[label] += 1
    return PackedImages(changed, images.labels, images.class_names)


def _transform(side: int) -> Any:
    """Return the augmentation; images below 32 pixels are shifted by at most their own side.

    The published 32 pixels shift only images of that size and smaller ones out of sight; of 8 x 8 pixels
    they would leave a tenth of all black, which would make the control weaker than at any other size.
    """

    def shifts(bins: int, _height: int, _width: int) -> torch.Tensor:
        return torch.linspace(0.0, min(32.0, side), bins)

    transform = TrivialAugmentWide()
    signed = {"TranslateX": (shifts, True), "TranslateY": (shifts, True)}
    transform._AUGMENTATION_SPACE = {**transform._AUGMENTATION_SPACE, **signed}
    return transform
