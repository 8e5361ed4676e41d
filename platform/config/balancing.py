"""How classes are filled up with generated images, and which of these are kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...trainers.config import Config


class FilterConfig(Config):
    """Which generated images are kept: those that pass every criterion that is set.

    Each compares a generated image with the training images of the class that it was generated for, or
    with what f_0 says, a classifier that was trained on the long-tailed training images alone (DiffuLT,
    equations 5 to 7).
    """

    pixel_distance: float | None = Field(None, ge=0)
    """Keep at most this d1, the smallest L2 distance of pixels in 0..255 to a training image (eq. 5).
    DiffuLT tries 3000, 3500 and 4000 for 32 x 32 RGB; it grows with the square root of the number of
    values."""

    feature_distance: float | None = Field(None, ge=0)
    """Keep at most this d2, the same in f_0's features (eq. 6). DiffuLT tries 8.5, 9 and 9.5."""

    probability: float | None = Field(None, ge=0, le=1)
    """Keep at least this d3, the probability that f_0 gives the class asked for (eq. 7). 5e-7 is
    DiffuLT's best."""

    near_copies: bool = True
    """Keep near copies of training images."""

    @property
    def is_set(self) -> bool:
        """Whether any image may be rejected."""
        return self != FilterConfig()

    @property
    def label(self) -> str:
        """The criteria that are set in a few words: `probability 5e-07, no near copies`."""
        criteria = [
            "no near copies" if name == "near_copies" else f"{name} {value:g}"
            for name, value in self.model_dump(exclude_defaults=True).items()
        ]
        return ", ".join(criteria) or "no filter"


class BalancingConfig(Config):
    """How far classes are filled up."""

    to: int | None = Field(None, ge=1)
    """N_t of DiffuLT: a class with fewer training images gets as many generated ones as it lacks.
    DiffuLT has 5000 for CIFAR-10-LT, 500 for CIFAR-100-LT and 300 for ImageNet-LT. None: by `of_largest`."""

    of_largest: float = Field(1.0, gt=0)
    """N_t where `to` is not given, as a multiple of the largest class's training images, rounded. DiffuLT's
    choices are 1 for CIFAR-LT and 0.23 for ImageNet-LT."""

    filter: FilterConfig = FilterConfig()

    seeds: int = Field(1, ge=1)
    """Classifiers that are trained at each point of a search; their mean accuracy is what it finds."""

    def target(self, train_counts: Sequence[int] | NDArray[np.int64]) -> int:
        """Return N_t.

        Args:
            train_counts: (C,), training images of each class.
        """
        return self.to or max(1, round(self.of_largest * int(max(train_counts))))
