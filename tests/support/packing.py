"""A packed set written from splits that are in memory."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from whipray.trainers.data import Splits
from whipray.trainers.data.files import Files
from whipray.trainers.data.locations import open_files
from whipray.trainers.data.packed_set import (
    Description,
    Index,
    Shard,
    encode_shard,
    write_index,
)
from whipray.trainers.data.validation import hash_pixels


def write_set(splits: Splits, to: str | Path, rows_of_shard: int) -> Files:
    """Pack both splits, one after the other, in shards of so many rows; return the set's files."""
    files = open_files(str(to))
    train, reference = splits.train, splits.reference
    pixels = np.concatenate([train.images[:], reference.images[:]])
    shards = []
    for first in range(0, len(pixels), rows_of_shard):
        part = pixels[first : first + rows_of_shard]
        name, content = encode_shard(part)
        files.write(name, content)
        shards.append(Shard(name, first, len(part), hashlib.sha256(content).hexdigest()))
    description = Description(
        image_shape=train.image_shape,
        class_names=train.class_names,
        train=(0, len(train.labels)),
        reference=(len(train.labels), len(pixels)),
        train_fingerprint=train.fingerprint(),
        reference_fingerprint=reference.fingerprint(),
        shards=tuple(shards),
        notes=splits.report.notes,
        available=splits.available,
        hold_out=splits.hold_out,
        validation=splits.validation,
        borrowed=splits.borrowed,
        source="images in memory",
    )
    labels = np.concatenate([train.labels, reference.labels])
    names = [f"image {i}" for i in range(len(labels))]
    index = Index(labels, hash_pixels(pixels), np.zeros(len(labels), np.uint8), names)
    write_index(files, description, index)
    return files
