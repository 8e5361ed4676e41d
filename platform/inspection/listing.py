"""Everything that a source names, before an image is opened."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...trainers.data.files import Files, MissingFile
from ...trainers.data.packed import Indices
from .facts import Finding

Encoded = Path | io.BytesIO
"""What Pillow reads an image from."""


@dataclass(frozen=True, eq=False)
class Listing:
    """The images of a source, N of them, and what was found while they were listed.

    Args:
        class_names: by class id.
        labels: (N,) int64, ids of classes.
        reference: (N,) bool, images of a reference that is given; the others are to train on.
        name: gives what findings call the image at an index.
        open: yields (index, what Pillow reads it from) for indices in ascending order. Bytes are read a
            few at a time, and are to be used before the next ones.
        findings: of what was left out, or cannot be used.
    """

    class_names: tuple[str, ...]
    labels: Indices
    reference: NDArray[np.bool_]
    name: Callable[[int], str]
    open: Callable[[Indices], Iterator[tuple[int, Encoded]]]
    findings: tuple[Finding, ...] = ()

    def counts(self, reference: bool) -> Indices:
        """Return the images of each class in one split, (number of classes,) int64."""
        labels = self.labels[self.reference == reference]
        return np.bincount(labels, minlength=len(self.class_names)).astype(np.int64)


AT_ONCE = 16
"""Objects of a bucket that are read at a time."""


def read_from_bucket(
    files: Files, names: Sequence[str], indices: Indices
) -> Iterator[tuple[int, Encoded]]:
    """Yield (index, bytes) of objects, whole; nothing where there is none."""

    def read(index: int) -> Encoded:
        try:
            return io.BytesIO(files.read(names[index]))
        except MissingFile:
            return io.BytesIO()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for first in range(0, len(indices), 4 * AT_ONCE):
            some = [int(i) for i in indices[first : first + 4 * AT_ONCE]]
            yield from zip(some, pool.map(read, some), strict=True)
