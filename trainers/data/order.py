"""The order in which training sees the images: a pure function of seed and position."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..randomness import derive_seed
from .packed import Indices
from .source import ClassSampling


class IndexOrder:
    """The endless stream of training images of one run.

    natural: every epoch is a fresh permutation, and epochs follow one another without a gap.
    sqrt, balanced: a class is sampled with probability proportional to the square root of its count
    (Mahajan et al., 2018) or to 1, then one of its images with equal probability.

    Args:
        labels: (N,) int64 of the training images, in [0, num_classes).
        seed: of the experiment.
    """

    def __init__(self, labels: Indices, num_classes: int, kind: ClassSampling, seed: int) -> None:
        self._kind = kind
        self._seed = seed
        self._counts = np.bincount(labels, minlength=num_classes).astype(np.int64)
        self._by_class = np.argsort(labels, kind="stable")
        self._first_of_class = np.cumsum(self._counts) - self._counts
        self._permutation = (-1, self._by_class)  # the last one used: epoch, its order
        power = 0.5 if kind == "sqrt" else 0.0
        weights = np.where(self._counts > 0, self._counts**power, 0.0)
        self._cumulative = np.cumsum(weights) / np.cumsum(weights)[-1]

    def indices(self, start: int, count: int) -> Indices:
        """Return the images at positions start, ..., start + count - 1; (count,) int64."""
        if self._kind == "natural":
            return self._natural(start, count)
        words = _words(derive_seed(self._seed, "order", self._kind), start, count)
        uniform = (words[:, 0] >> np.uint64(11)) * 2.0**-53  # in [0, 1)
        classes = np.searchsorted(self._cumulative, uniform, side="right")
        within = (words[:, 1] % self._counts[classes].astype(np.uint64)).astype(np.int64)
        sampled: Indices = self._by_class[self._first_of_class[classes] + within]
        return sampled

    def _natural(self, start: int, count: int) -> Indices:
        size = len(self._by_class)
        parts = [np.empty(0, dtype=np.int64)]
        for epoch in range(start // size, -(-(start + count) // size)):
            first = epoch * size
            begin, end = max(start, first), min(start + count, first + size)
            parts.append(self._epoch(epoch)[begin - first : end - first])
        return np.concatenate(parts)

    def _epoch(self, epoch: int) -> Indices:
        of_epoch, permutation = (
            self._permutation
        )  # together: another thread may be at another epoch
        if of_epoch != epoch:
            keys = _words(derive_seed(self._seed, "order", "epoch", epoch), 0, len(self._by_class))
            permutation = np.argsort(keys[:, 0], kind="stable")
            self._permutation = epoch, permutation
        return permutation


def _words(key: int, start: int, count: int) -> NDArray[np.uint64]:
    """Return four random words for each position, (count, 4) uint64.

    Philox is counter-based: position p has block p of its stream, so any range can be computed alone.
    NumPy guarantees a bit generator's raw stream across versions, and its distributions not.
    """
    return np.random.Philox(key=key, counter=start).random_raw(4 * count).reshape(count, 4)
