"""The images of a source that says which encoded images it has."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...trainers.data import ImageFolder, TarShards
from ...trainers.data.decoding import UNREAD
from ...trainers.data.packed import Indices
from ...trainers.data.report import shown
from .labels import name_classes
from .listing import Encoded, Listing


def list_encoded(config: TarShards | ImageFolder) -> Listing:
    """Return the images of tar archives or of an image folder with tables.

    Raises:
        DataProblem: as the source.
    """
    train, reference, class_names = config.encoded(UNREAD)
    splits = [train] if reference is None else [train, reference]
    first = len(train.labels)
    labels = np.concatenate([split.labels for split in splits])
    names, labels, findings = name_classes(labels, class_names, train.name)

    def name(i: int) -> str:
        return shown(train.name(i) if i < first else splits[1].name(i - first))

    def read(indices: Indices) -> Iterator[tuple[int, Encoded]]:
        for i in map(int, indices):
            split, at = (train, i) if i < first else (splits[1], i - first)
            found = split.open(at)
            yield i, found if isinstance(found, Path | io.BytesIO) else io.BytesIO()

    is_reference = np.arange(len(labels)) >= first
    return Listing(names, labels, is_reference, name, read, tuple(findings))
