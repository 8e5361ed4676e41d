"""scikit-learn's handwritten digits: real images that need no download."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import DataProblem
from .long_tail import LongTail, OwnTail, long_tail_indices
from .packed import PackedImages
from .progress import OnPhase, quiet
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

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return 1, 8, 8

    def load(
        self,
        cache: Path,  # noqa: ARG002  (nothing to decode)
        on_phase: OnPhase = quiet,  # noqa: ARG002
    ) -> Splits:
        """Read both splits; see `SourceConfig`."""
        rows = _read_rows()
        images = rows[:, :-1].reshape(-1, 1, 8, 8)
        pixels = np.rint(images * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255
        everything = PackedImages(pixels, rows[:, -1].astype(np.int64), tuple("0123456789"))
        of_class = [np.flatnonzero(everything.labels == c) for c in range(10)]
        end = TRAIN_PER_CLASS + REFERENCE_PER_CLASS
        pool = everything.select(np.concatenate([i[:TRAIN_PER_CLASS] for i in of_class]))
        reference = everything.select(np.concatenate([i[TRAIN_PER_CLASS:end] for i in of_class]))
        kept = long_tail_indices(
            pool.labels, pool.num_classes, self.long_tail, class_names=pool.class_names
        )
        return self.split(pool.select(kept), lambda: reference, len(pool.images))


def _read_rows() -> NDArray[np.float64]:
    """Return scikit-learn's file of digits, (1797, 65): 64 values from 0 to 16, and the digit.

    `sklearn.datasets.load_digits` returns the same, after an import that takes a second.

    Raises:
        DataProblem: scikit-learn is not installed.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataProblem("the digits come with scikit-learn", "`pip install scikit-learn`")
    with gzip.open(Path(package.origin).parent / "datasets/data/digits.csv.gz") as file:
        return np.loadtxt(file, delimiter=",")
