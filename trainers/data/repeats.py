"""Images that are in a data set more than once, as they are decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .packed import Indices
from .report import Note, counted


@dataclass(frozen=True, eq=False)
class Hashed:
    """The images of one split, by the hashes of their pixels.

    Args:
        hashes: (N,) uint64.
        labels: (N,) int64.
        name: gives what is said of the image at an index.
    """

    hashes: NDArray[np.uint64]
    labels: Indices
    name: Callable[[int], str]

    def part(self, start: int, stop: int) -> Hashed:
        """Return the images from `start` on, without `stop`."""
        return Hashed(
            self.hashes[start:stop], self.labels[start:stop], lambda i: self.name(start + i)
        )


def describe_repeats(train: Hashed, reference: Hashed) -> Iterator[Note]:
    """Yield what is to be said of equal images: in training, under two labels, in both splits."""
    _, first, inverse = np.unique(train.hashes, return_index=True, return_inverse=True)
    original = first[inverse]  # of each image, the first that is equal to it
    repeats = np.flatnonzero(original != np.arange(len(original)))
    other = repeats[train.labels[repeats] != train.labels[original[repeats]]]
    for kind, rows, text in (
        ("repeated", repeats, "equal to another training image"),
        ("relabelled", other, "equal to one of another class"),
    ):
        if len(rows):
            example = f"{train.name(int(rows[0]))} is {train.name(int(original[rows[0]]))}"
            of = f"{len(rows)} of {counted(len(original), 'training images')}"
            yield Note(kind, len(rows), f"{of} {text}: {example}")
    shared = np.flatnonzero(np.isin(reference.hashes, train.hashes))
    if len(shared):
        text = (
            f"{len(shared)} of {counted(len(reference.hashes), 'reference images')} equal to a training "
            f"image, so that metrics reward copies: {reference.name(int(shared[0]))}"
        )
        yield Note("shared", len(shared), text)
