"""The images of a balanced set that `whipray balance` wrote."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...trainers.data.balanced import TEST, TRAIN, Balanced, StoredSet
from ...trainers.data.packed import Indices
from .listing import Encoded, Listing


def list_balanced(config: Balanced) -> Listing:
    """Return the images of a set, whatever its form.

    Raises:
        DataProblem: no whole set.
    """
    stored = StoredSet.read(config.path.expanduser())
    splits = [stored.images(split) for split in (TRAIN, TEST)]
    counts = [len(split.labels) for split in splits]

    def at(index: int) -> tuple[int, int]:
        return (0, index) if index < counts[0] else (1, index - counts[0])

    def name(index: int) -> str:
        split, row = at(index)
        return splits[split].name(row)

    def read(indices: Indices) -> Iterator[tuple[int, Encoded]]:
        for index in indices.tolist():
            split, row = at(index)
            yield index, splits[split].open(row)

    labels = np.concatenate([split.labels for split in splits])
    reference = np.repeat([False, True], counts)
    return Listing(stored.class_names, labels, reference, name, read)
