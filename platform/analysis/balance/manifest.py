"""What a balanced set holds: every image with where it is from, what it is near to, and whether it is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ....trainers.data import Splits
from ....trainers.data.balanced import TEST, TRAIN
from ...evaluation.arrays import Bools, Floats, Floats32, Ints, Pixels
from ...foundation.names import class_folders, numbered_class_folders

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]

Form = Literal["folder", "parquet", "torchvision"]
"""How images lie in a folder: in folders named after the classes, in Parquet files, or in folders whose sorted
names give the model's class ids."""

SHARDS = "data"
"""Folder of Parquet files, where Hugging Face's `datasets` looks for them before it looks elsewhere."""
SHARD_BYTES = 64 << 20
"""Of pixels in one Parquet file; also what is in memory at once."""


@dataclass(frozen=True, eq=False)
class GeneratedRows:
    """N generated images, class by class, with how near each is to the training images."""

    labels: Ints
    """(N,) the class asked for."""
    indices: Ints
    """(N,) which image of its class each is."""
    kept: Bools
    """(N,)."""
    reasons: Sequence[str]
    """(N,) why it is not kept, "" for those that are."""
    near_copy: Bools
    """(N,)."""
    pixel_distance: Floats32
    """(N,) d1."""
    nearest: Ints
    """(N,) the training image at d1."""
    feature_distance: Floats32
    """(N,) d2."""
    nearest_features: Ints
    """(N,) the training image at d2."""
    probability: Floats
    """(N,) d3."""
    copy_ratio: Floats
    """(N,)."""
    copy_of: Ints
    """(N,) the training image at `copy_ratio`."""
    read: Callable[[Ints], Pixels]
    """Returns the images at some rows (n,), uint8 (n, C, H, W)."""


@dataclass(frozen=True, eq=False)
class SetContent:
    """A balanced set before it is written: real and kept generated images to train on, real ones to test on."""

    splits: Splits
    generated: GeneratedRows
    model: str
    """What made the generated images, as a person names it."""
    weights: str
    """Hash of its weights."""
    sampling: str
    """How they were sampled, as JSON."""
    seed: int
    identity: str
    """A hash of all that the set depends on but for its form."""
    about: dict[str, Any]
    """Further facts about the set, as JSON types."""

    @cached_property
    def kept_rows(self) -> Ints:
        """Rows of the generated images that are in the set."""
        return np.flatnonzero(self.generated.kept)

    @property
    def train_images(self) -> int:
        """Images to train on, real and generated."""
        return len(self.splits.train.labels) + len(self.kept_rows)

    @property
    def images(self) -> int:
        """Images that are written."""
        return self.train_images + len(self.splits.reference.labels)

    def chunks(self) -> list[Chunk]:
        """Cut the images that are written into parts of bounded size, each of one split."""
        each = max(1, SHARD_BYTES // int(np.prod(self.splits.train.image_shape)))
        parts = []
        for split, total in (
            (TRAIN, self.train_images),
            (TEST, len(self.splits.reference.labels)),
        ):
            of = -(-total // each)
            parts += [
                Chunk(self, split, k, of, range(k * each, min((k + 1) * each, total)))
                for k in range(of)
            ]
        return parts


@dataclass(frozen=True, eq=False)
class Chunk:
    """Consecutive images of one split: a Parquet file of its own."""

    content: SetContent
    split: str
    number: int
    of: int
    """Chunks of the split."""
    rows: range
    """Of the split: of the training images first the real ones, then the kept generated ones."""

    @property
    def file(self) -> str:
        """Its Parquet file, named as Hugging Face's `datasets` looks for it."""
        return f"{SHARDS}/{self.split}-{self.number:05d}-of-{self.of:05d}.parquet"

    @cached_property
    def _generated_rows(self) -> Ints:
        """Rows among all generated images, of those that are in the chunk."""
        return self.content.kept_rows[self._parts()[1]]

    def _parts(self) -> tuple[slice, slice]:
        """Return which real images of the split are in the chunk, and which kept generated ones."""
        splits = self.content.splits
        real = splits.train if self.split == TRAIN else splits.reference
        n = len(real.labels)
        start, stop = self.rows.start, self.rows.stop
        return slice(min(start, n), min(stop, n)), slice(max(0, start - n), max(0, stop - n))

    @cached_property
    def labels(self) -> Ints:
        """(n,) classes."""
        splits = self.content.splits
        real = splits.train if self.split == TRAIN else splits.reference
        own: Ints = real.labels[self._parts()[0]]
        return np.concatenate([own, self.content.generated.labels[self._generated_rows]])

    @cached_property
    def is_generated(self) -> Bools:
        """(n,)."""
        real = self._parts()[0]
        flags: Bools = np.arange(len(self.rows)) >= real.stop - real.start
        return flags

    @cached_property
    def names(self) -> list[str]:
        """(n,) file names: a real image by its number in the split, a generated one by that in its class."""
        real = self._parts()[0]
        indices = self.content.generated.indices[self._generated_rows].tolist()
        return [f"real-{i:06d}.png" for i in range(real.start, real.stop)] + [
            f"generated-{i:06d}.png" for i in indices
        ]

    def pixels(self) -> Pixels:
        """Return the images, uint8 (n, C, H, W)."""
        splits, rows = self.content.splits, self._generated_rows
        split = splits.train if self.split == TRAIN else splits.reference
        real = split.images[self._parts()[0]]
        return np.concatenate([real, self.content.generated.read(rows)]) if len(rows) else real


def folders_of(form: Form, class_names: Sequence[str]) -> list[str]:
    """Return the name of each class's folder; in Parquet files it is part of an image's name."""
    return (
        numbered_class_folders(class_names) if form == "torchvision" else class_folders(class_names)
    )


def manifest(
    content: SetContent, files: Sequence[str], rows: Sequence[int] | None, hashes: Sequence[str]
) -> pa.Table:
    """Return a row for each image: those of the set in the order of its chunks, then the rejected ones.

    Args:
        files: of each image of the set.
        rows: of each image in these files, where they are Parquet files.
        hashes: SHA-256 of each image's encoded bytes.
    """
    import pyarrow as pa

    splits, generated, kept = content.splits, content.generated, content.kept_rows
    rejected = np.flatnonzero(~generated.kept)
    real, test = len(splits.train.labels), len(splits.reference.labels)
    counts = (real, len(kept), test, len(rejected))

    def column(of_kind: Sequence[Any], kind: pa.DataType) -> pa.Array:
        """Make a column of four parts, each an array or one value for all of it."""
        parts = []
        for values, n in zip(of_kind, counts, strict=True):
            if isinstance(values, np.ndarray | list):
                parts.append(pa.array(values, kind))
            else:
                parts.append(pa.repeat(pa.scalar(values, kind), n))
        return pa.concat_arrays(parts)

    def of_generated(values: Any, kind: pa.DataType) -> pa.Array:
        values = np.asarray(values)
        return column((None, values[kept], None, values[rejected]), kind)

    none = pa.nulls(len(rejected), pa.string())
    text, number = pa.string(), pa.int64()
    labels = column(
        (
            splits.train.labels,
            generated.labels[kept],
            splits.reference.labels,
            generated.labels[rejected],
        ),
        number,
    )
    reasons = np.array(generated.reasons, object)[rejected].tolist()
    columns = {
        "file": pa.concat_arrays([pa.array(files, text), none]),
        "row": pa.nulls(sum(counts), number)
        if rows is None
        else pa.concat_arrays([pa.array(rows, number), pa.nulls(len(rejected), number)]),
        "class_id": labels,
        "class_name": pa.array(splits.train.class_names, text).take(labels),
        "split": column((TRAIN, TRAIN, TEST, TRAIN), text),
        "generated": column((False, True, False, True), pa.bool_()),
        "kept": column((True, True, True, False), pa.bool_()),
        "reason": column((None, None, None, reasons), text),
        "model": column((None, content.model, None, content.model), text),
        "weights": column((None, content.weights, None, content.weights), text),
        "sampling": column((None, content.sampling, None, content.sampling), text),
        "seed": column((None, content.seed, None, content.seed), number),
        "index": column(
            (
                np.arange(real),
                generated.indices[kept],
                np.arange(test),
                generated.indices[rejected],
            ),
            number,
        ),
        "pixel_distance": of_generated(generated.pixel_distance, pa.float32()),
        "nearest": of_generated(generated.nearest, number),
        "feature_distance": of_generated(generated.feature_distance, pa.float32()),
        "nearest_features": of_generated(generated.nearest_features, number),
        "probability": of_generated(generated.probability, pa.float64()),
        "copy_ratio": of_generated(generated.copy_ratio, pa.float64()),
        "near_copy": of_generated(generated.near_copy, pa.bool_()),
        "copy_of": of_generated(generated.copy_of, number),
        "sha256": pa.concat_arrays([pa.array(hashes, text), none]),
    }
    return pa.table(columns)
