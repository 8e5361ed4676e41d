"""scikit-learn's handwritten digits: real images that need no download."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from .long_tail import LongTail, OwnTail, long_tail_indices
from .packed import PackedImages
from .source import SourceConfig, Splits

TRAIN_PER_CLASS = 100
REFERENCE_PER_CLASS = 74  # the rarest digit, 8, has 174 images


class Digits(SourceConfig):
    """Ten classes, 8x8, one channel.

    The tail is cut from the first 100 images of each class, the next 74 are the reference.
    """

    source: Literal["digits"] = "digits"
    long_tail: OwnTail = LongTail(ratio=20)
    """The tail to cut; 20 leaves the rarest digit 5 of its 100 images."""
    flip: bool = False
    """Mirror half of the training images; off, since a mirrored digit is no digit."""

    def load(self, cache: Path) -> Splits:  # noqa: ARG002  (nothing to decode)
        """Read both splits; see `SourceConfig`."""
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]

        digits = load_digits()
        pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255
        everything = PackedImages(
            pixels[:, None],  # (1797, 1, 8, 8)
            digits.target.astype(np.int64),
            tuple(str(name) for name in digits.target_names),
        )
        of_class = [np.flatnonzero(everything.labels == c) for c in range(10)]
        end = TRAIN_PER_CLASS + REFERENCE_PER_CLASS
        pool = everything.select(np.concatenate([i[:TRAIN_PER_CLASS] for i in of_class]))
        reference = everything.select(np.concatenate([i[TRAIN_PER_CLASS:end] for i in of_class]))
        kept = long_tail_indices(
            pool.labels, pool.num_classes, self.long_tail, class_names=pool.class_names
        )
        return Splits(pool.select(kept), reference, available=len(pool.images))
