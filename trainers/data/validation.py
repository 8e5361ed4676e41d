"""Training images set apart to choose settings by, so that no test image is looked at while choosing.

Which images are set apart is a function of the seed and of the images themselves, not of their order, their
names or the images of other classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..config import Config
from ..errors import DataProblem
from .decoded import hash_of
from .packed import Images, Indices, blocks_of
from .report import Note, counted, listed, shown


class Validation(Config):
    """Which training images are set apart; they take the place of the images to compare with."""

    share: float = Field(default=0.2, gt=0, le=0.5)
    """Share of the different training images of each class, rounded; at least one of every class, and never
    all."""
    seed: int = Field(default=0, ge=0)
    """Another seed sets other images apart."""

    def count(self, images: int) -> int:
        """Return how many of so many different images of a class are set apart; 0 of a single one."""
        return min(max(1, round(self.share * images)), images - 1) if images > 1 else 0

    def describe(self, mask: NDArray[np.bool_], labels: Indices, num_classes: int) -> Note:
        """Return what is to be said of it.

        Args:
            mask: (N,), as `choose_validation` returns it.
            labels: (N,).
        """
        counts = np.bincount(labels[mask], minlength=num_classes)
        of_a_class = (
            str(counts.max())
            if counts.min() == counts.max()
            else (f"{counts.max()} to {counts.min()}")
        )
        return Note(
            "validation",
            int(mask.sum()),
            f"{mask.sum():,} of {counted(len(labels), 'training images')} are set apart to compare with, "
            f"{of_a_class} of a class (data.validation.share={self.share:g}); no test image is used",
        )


def hash_pixels(images: Images) -> NDArray[np.uint64]:
    """Return a hash of each image's pixels, (N,).

    Args:
        images: (N, C, H, W).
    """
    digests = (
        hash_of(np.ascontiguousarray(image)) for block in blocks_of(images) for image in block
    )
    return np.frombuffer(b"".join(digests), "<u8")


def choose_validation(
    hashes: NDArray[np.uint64], labels: Indices, class_names: Sequence[str], config: Validation
) -> NDArray[np.bool_]:
    """Choose the images that are set apart, (N,) bool.

    Of each class, those with the smallest hashes of (seed, image). Equal images are on one side; one that
    has two labels stays in training, where it says nothing of how well either is known.

    Args:
        hashes: (N,), of each image's content.
        labels: (N,), in [0, number of classes).

    Raises:
        DataProblem: naming the classes of which none can be set apart.
    """
    pairs, inverse = np.unique(
        np.stack([labels.astype(np.uint64), hashes]), axis=1, return_inverse=True
    )
    of_pair = pairs[0].astype(np.int64)  # (P,), the class of each different image of a class
    _, which, times = np.unique(pairs[1], return_inverse=True, return_counts=True)
    one_label = times[which] == 1
    key = config.seed.to_bytes(8, "little")
    order = np.array(
        [
            int.from_bytes(hashlib.blake2b(h.tobytes(), key=key, digest_size=8).digest())
            for h in pairs[1]
        ],
        np.uint64,
    )
    chosen, too_few = np.zeros(len(of_pair), np.bool_), []
    for c, name in enumerate(class_names):
        of_class = of_pair == c
        candidates = np.flatnonzero(of_class & one_label)
        count = min(config.count(int(of_class.sum())), len(candidates))
        if count == 0:
            too_few.append(shown(name))
        chosen[candidates[np.argsort(order[candidates])[:count]]] = True
    if too_few:
        raise DataProblem(
            f"data.validation sets images of every class apart, and too few different ones are of: "
            f"{listed(too_few)}",
            "add images of these classes, leave the classes out, or set data.validation=null",
        )
    return chosen[inverse.reshape(-1)]
