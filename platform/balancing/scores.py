"""What generated images are filtered by: their distances to training images, and what f_0 says."""

from __future__ import annotations

from dataclasses import dataclass

from ..evaluation.arrays import Floats, Floats32, Ints


@dataclass(frozen=True)
class Scores:
    """The scores of N generated images, each array (N,) in the rows of `Filled`.

    DiffuLT, equations 5 to 7; training images are indices into the training split.
    """

    pixel_distance: Floats32
    """d1, the smallest L2 distance to a training image of the same class, pixels in 0..255."""
    nearest_pixels: Ints
    """That training image; the first of several."""
    feature_distance: Floats32
    """d2, the smallest L2 distance to a training image of the same class in f_0's features."""
    nearest_features: Ints
    """That training image; the first of several."""
    probability: Floats
    """d3, the probability in [0, 1] that f_0 gives the class asked for."""
    copy_ratio: Floats
    """How near a copy of a training image of any class it is: `evaluation.metrics.memorisation.Copies`."""
    copy_of: Ints
    """The training image that the ratio is of."""
