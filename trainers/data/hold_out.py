"""Real images held out of the training images, to compare generated ones with, where none were given.

Which side an image is on is a function of its own bytes and of the share, and of nothing else: not of its
name or class, nor of the images beside it. So images that are added leave every other one where it is, and
equal files are on one side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..config import Config
from .packed import Indices
from .report import Note, counted, listed, shown

HASH_BITS = 64


class HoldOut(Config):
    """Which images are held out of the training images. It is not used where a source has others to compare with."""

    share: float = Field(default=0.2, gt=0, le=0.5)
    """Share of the images, in expectation: of each image its own bytes decide."""
    at_least: int = Field(default=2, ge=1)
    """Different images of a class that must be held out: two are the fewest from which the spread within a
    class can be estimated. A class with fewer keeps all of them for training and is compared with its
    training images."""
    remaining: int = Field(default=8, ge=1)
    """Different images of a class that must remain for training, else it keeps all. With the others' values
    no class of less than ten images is held out of: it would lose more than a fifth for two images, which
    say little by themselves."""

    def expected(self, count: int) -> int:
        """Return how many of so many different images of a class are held out, about; 0 where all are kept."""
        held = int(count * self.share)
        return held if held >= self.at_least and count - held >= self.remaining else 0


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Which images are held out.

    Args:
        mask: (N,) bool.
        borrowed: classes that keep all images for training, and lend them to be compared with.
        config: by which they were chosen.
    """

    mask: NDArray[np.bool_]
    borrowed: tuple[int, ...]
    config: HoldOut

    def describe(self, labels: Indices, class_names: Sequence[str]) -> Iterator[Note]:
        """Yield what is to be said of it.

        Args:
            labels: (N,).
        """
        count, classes = int(self.mask.sum()), len(class_names)
        if count:
            yield Note(
                "held out",
                count,
                f"{count:,} of {counted(len(labels), 'images')} of {classes - len(self.borrowed)} of "
                f"{counted(classes, 'classes')} are held out, to compare with "
                f"(data.hold_out.share={self.config.share:g})",
            )
        if self.borrowed:
            names = listed([shown(class_names[c]) for c in self.borrowed])
            yield Note(
                "borrowed",
                len(self.borrowed),
                f"too few images to hold some out, compared with its training images, where copies look "
                f"perfect: {names}",
            )


def hold_out(
    hashes: NDArray[np.uint64], labels: Indices, num_classes: int, config: HoldOut
) -> HeldOut:
    """Choose the images that are held out.

    An image is chosen where u = hash / 2^64 < share. A class of too few chosen or too few other images,
    equal ones counted once, keeps all: when more images are added to it, this is the one case in which
    images change sides.

    Args:
        hashes: (N,), of each image's bytes, uniform over all values.
        labels: (N,), in [0, num_classes).
    """
    chosen = hashes < np.uint64(int(config.share * 2**HASH_BITS))
    different = np.unique(np.stack([labels.astype(np.uint64), hashes]), axis=1, return_index=True)[
        1
    ]

    def count(rows: NDArray[np.bool_]) -> Indices:
        once = different[rows[different]]
        return np.bincount(labels[once], minlength=num_classes).astype(np.int64)

    keeps_all = (count(chosen) < config.at_least) | (count(~chosen) < config.remaining)
    return HeldOut(chosen & ~keeps_all[labels], tuple(np.flatnonzero(keeps_all).tolist()), config)
