"""Images in shards, by which they are generated, their features extracted, and both kept.

A generated image is a function of (checkpoint, sampling, seed, class, index), so shards can be made
anywhere, in any order, and again. What is in the store is not made again: a job that was stopped
goes on, more images per class only add shards, and another extractor needs no new images.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...trainers.checkpoint import Manifest
from ...trainers.data import PackedImages
from ...trainers.errors import CheckpointProblem
from ...trainers.integrity import Altered, load_arrays, read_twice, save_arrays
from ...trainers.randomness import BLOCK
from ...trainers.sampling import SamplingConfig
from ...trainers.scratch import Scratch
from ..evaluation.arrays import Floats32, Ints, Pixels
from ..evaluation.extractors.base import Extracted
from ..evaluation.metrics.memorisation import TrainingImages
from ..storage import layout
from ..storage.store import Storage
from ..storage.trained_weights import fit_width

log = logging.getLogger(__name__)

OnImagesDone = Callable[[float], None]
"""Takes the number of images that are done so far, with a part of those in work."""


@dataclass(frozen=True)
class GeneratedShard:
    """Generated images of some consecutive classes.

    Args:
        folder: of this checkpoint, sampling and seed, from the store's top.
        first_class: the first class.
        first_index: which image of its class the first one is.
        counts: images of first_class, first_class + 1, ...
    """

    folder: str
    sampling: SamplingConfig
    seed: int
    first_class: int
    first_index: int
    counts: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.counts)

    @cached_property
    def labels(self) -> Ints:
        """(n,), class by class."""
        last = self.first_class + len(self.counts)
        return np.repeat(np.arange(self.first_class, last, dtype=np.int64), self.counts)

    @cached_property
    def indices(self) -> Ints:
        """(n,), which image of its class each one is."""
        each = [np.arange(count, dtype=np.int64) for count in self.counts]
        return self.first_index + np.concatenate(each)

    @property
    def stem(self) -> str:
        """File name without an ending; different for shards of different shapes."""
        shape = hashlib.sha256(json.dumps(self.counts).encode()).hexdigest()[:8]
        return f"{self.folder}/class{self.first_class:05d}-image{self.first_index:06d}-{shape}"


@dataclass(frozen=True)
class RealShard:
    """Consecutive reference images.

    Args:
        folder: of these images' content, from the store's top.
    """

    folder: str
    first: int
    count: int

    def __len__(self) -> int:
        return self.count

    @property
    def stem(self) -> str:
        """File name without an ending."""
        return f"{self.folder}/images{self.first:07d}-{self.count}"


Shard = GeneratedShard | RealShard


def samples_folder(run: Storage, weights: str, sampling: SamplingConfig, seed: int) -> str:
    """Return the folder of the images of one setting, from the store's top.

    Args:
        weights: `weights_hash`.
    """
    depends_on = [weights, sampling.identity(), seed]
    return layout.samples_folder(run.base, short_hash(depends_on))


def weights_hash(
    manifest: Manifest, averages: Mapping[str, Manifest], sampling: SamplingConfig
) -> str:
    """Return what the weights are known by: the checkpoint, and the averages that form a width.

    Args:
        manifest: of the checkpoint.
        averages: up to it, `CheckpointStore.averages`; read only with `sampling.ema_width`.

    Raises:
        UsageProblem: a width that the averages kept cannot form.
    """
    checkpoint = manifest.content_hash()
    if sampling.ema_width is None:
        return checkpoint
    formed = fit_width(averages, manifest.images_seen, sampling.ema_width)
    used = {profile.images_seen for profile in formed.shares}
    parts = [m.content_hash() for m in averages.values() if m.images_seen in used]
    return short_hash([checkpoint, parts])


def short_hash(content: Any) -> str:
    """Return 16 hex digits of a hash over JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def generated_shards(
    folder: str, sampling: SamplingConfig, seed: int, counts: Sequence[int], shard_images: int
) -> list[GeneratedShard]:
    """Cut `counts[c]` images of every class c into shards of about `shard_images`.

    The cut does not depend on the counts: where more images of each class are asked for later, only
    the last shards are made again.
    """
    classes = len(counts)
    # By whole blocks, as earlier versions cut them: what a store has of these is used again.
    together = max(1, min(classes, shard_images // BLOCK))  # classes in a shard
    each = BLOCK * max(1, shard_images // (BLOCK * together))  # images of each class
    shards = []
    for first_index in range(0, max(counts), each):
        for some in batched_range(classes, together):
            wanted = tuple(min(each, max(0, counts[c] - first_index)) for c in some)
            if any(wanted):
                shards.append(GeneratedShard(folder, sampling, seed, some[0], first_index, wanted))
    return shards


def real_shards(reference: PackedImages, shard_images: int) -> list[RealShard]:
    """Cut all reference images."""
    folder, n = layout.reference_folder(reference.fingerprint()), len(reference.images)
    return [RealShard(folder, r[0], len(r)) for r in batched_range(n, shard_images)]


def batched_range(stop: int, size: int) -> Iterator[range]:
    """Yield 0 .. stop in ranges of at most `size`."""
    return (range(first, min(first + size, stop)) for first in range(0, stop, size))


def nearest_name(shard: GeneratedShard, training: TrainingImages) -> str:
    """Return the file of a shard's nearest training images."""
    # "aligned": earlier files are of pixels as they lie.
    return layout.shard_nearest(shard.stem, f"aligned-{training.fingerprint}")


def read_nearest(
    root: Storage, shards: Sequence[GeneratedShard], training: TrainingImages, rows: Ints
) -> dict[str, NDArray[Any]]:
    """Return the fields of `Copies` of all shards' images, each in its row (N,)."""
    parts = [read(root, nearest_name(shard, training)) for shard in shards]
    order = rows.argsort()
    return {key: np.concatenate([part[key] for part in parts])[order] for key in parts[0]}


def features_name(shard: Shard, extractor_key: str) -> str:
    """Return the file of a shard's features."""
    return layout.shard_features(shard.stem, extractor_key)


def read_features(
    root: Storage, shards: Sequence[Shard], extractor_key: str, rows: Ints | None = None
) -> Extracted:
    """Return the features (N, d) and all logits (N, K) of all shards; no image is read.

    Args:
        rows: (N,) where each of the shards' rows goes; in their order where not given.
    """
    total, done = sum(map(len, shards)), 0
    rows = np.arange(total) if rows is None else rows
    whole: dict[str, Floats32] = {}
    for shard in shards:
        part = read(root, features_name(shard, extractor_key))
        if not whole:
            whole = {k: np.empty((total, v.shape[1]), np.float32) for k, v in part.items()}
        part_rows = rows[done : (done := done + len(shard))]
        for key, values in whole.items():
            values[part_rows] = part[key]
    return Extracted(**whole)


def by_class(shards: Sequence[GeneratedShard]) -> tuple[Ints, Ints, Ints]:
    """Return labels (N,) and indices (N,) class by class, and the row (N,) of each image there."""
    labels = np.concatenate([shard.labels for shard in shards])
    indices = np.concatenate([shard.indices for shard in shards])
    order = np.lexsort((indices, labels))
    return labels[order], indices[order], order.argsort().astype(np.int64)


def read_images(root: Storage, shards: Sequence[GeneratedShard], wanted: Ints) -> Pixels:
    """Return the generated images at (class, index) rows (n, 2); only their shards are read."""
    images: dict[int, Pixels] = {}
    for shard in shards:
        row_of = {
            (int(c), int(i)): row
            for row, (c, i) in enumerate(zip(shard.labels, shard.indices, strict=True))
        }
        hits = [n for n, (c, i) in enumerate(wanted.tolist()) if (c, i) in row_of]
        if hits:
            content = read(root, layout.shard_images(shard.stem))["images"]
            images |= {n: content[row_of[tuple(wanted[n].tolist())]] for n in hits}
    return np.stack([images[n] for n in range(len(wanted))])


def write(root: Storage, name: str, tensors: dict[str, NDArray[Any]]) -> None:
    """Write one file, whole or not at all."""
    with Scratch() as scratch:
        file = Path(scratch) / "shard.safetensors"
        save_arrays(tensors, file)
        root.put_file(file, name)


def read(root: Storage, name: str) -> dict[str, NDArray[Any]]:
    """Read what `write` wrote, and check it against its hash.

    Raises:
        CheckpointProblem: it is damaged, also when read a second time.
    """
    with Scratch() as scratch:
        file = Path(scratch) / "shard.safetensors"

        def fetch() -> dict[str, NDArray[Any]]:
            root.get_file(name, file)
            return load_arrays(file)

        try:
            return read_twice(fetch)
        except Altered as error:
            problem = f"{root.uri_of(name)}: damaged"
            raise CheckpointProblem(problem, "delete it; it is made again") from error


def read_kept(root: Storage, name: str) -> dict[str, NDArray[Any]] | None:
    """Return what `write` wrote; None where there is nothing, or what is there is damaged."""
    if not root.exists(name):
        return None
    try:
        return read(root, name)
    except CheckpointProblem as problem:
        log.warning("%s; making it again", problem.what)
        return None
