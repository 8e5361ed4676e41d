"""Generated images that fill classes up, in shards: each is made once, by whichever worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...trainers.checkpoint import Manifest
from ...trainers.data import PackedImages, Splits
from ..config.experiment import Experiment
from ..evaluation.arrays import Ints, Pixels
from ..generation.loading import Models
from ..generation.shard_tasks import ShardSampler
from ..generation.shards import (
    GeneratedShard,
    by_class,
    generated_shards,
    read_images,
    samples_folder,
    weights_hash,
)
from ..generation.workers import Workers
from ..storage.checkpoints import CheckpointStore
from ..storage.layout import shard_images
from ..storage.store import Storage

Counts = NDArray[np.int64]
"""Images of each class, (C,)."""


@dataclass(frozen=True)
class ImageSource:
    """A checkpoint that generates images, with all that decides them, and what it was trained on."""

    store: Storage
    """The run's folder."""
    checkpoint: str
    """Its name."""
    experiment: Experiment
    """Its `sampling` names a guide by content, as `runs.resolve_guide.fixed_sampling` returns it."""
    manifest: Manifest
    """Of the checkpoint."""
    splits: Splits
    """The real images; `train` is what the checkpoint was trained on."""

    @cached_property
    def samples_folder(self) -> str:
        """Folder of its images, from the store's top.

        Raises:
            UsageProblem: a `sampling.ema_width` that the averages kept cannot form.
        """
        sampling = self.experiment.sampling
        has_averages = sampling.ema_width is not None
        averages = CheckpointStore(self.store).averages(self.checkpoint) if has_averages else {}
        weights = weights_hash(self.manifest, averages, sampling)
        return samples_folder(self.store, weights, sampling, self.experiment.seed)

    def shards(self, counts: Counts) -> list[GeneratedShard]:
        """Return the shards of `counts[c]` images of every class c."""
        return generated_shards(
            self.samples_folder,
            self.experiment.sampling,
            self.experiment.seed,
            counts.tolist(),
            self.experiment.evaluation.shard_images,
        )

    def missing(self, counts: Counts) -> list[GeneratedShard]:
        """Return the shards that are not in the store."""
        stored = self.store.root.list(self.samples_folder)
        return [each for each in self.shards(counts) if shard_images(each.stem) not in stored]

    def fill(
        self,
        counts: Counts,
        workers: int | Literal["all"],
        on_phase: Callable[[str], None] = lambda _line: None,
        on_share: Callable[[float], None] = lambda _share: None,
    ) -> Filled:
        """Generate `counts[c]` images of every class c; those in the store are not made again.

        Args:
            counts: (C,) int64, at least one above 0.
            workers: 1 generates in this process, more on Ray.
            on_share: takes the share of them, in [0, 1], that is there.
        """

        def on_images(done: float) -> None:
            on_phase(f"generating images: {int(done):,} of {total:,}")
            on_share(done / total)

        shards, total = self.shards(counts), int(counts.sum())
        if workers != 1 and not self.missing(counts):
            return Filled(self, tuple(shards))  # without a wait for Ray
        models = Models(self.store, self.checkpoint)
        sampler = ShardSampler(self.store.root, models)
        with closing(models), Workers(sampler, workers, self.experiment.scaling) as pool:
            pool.run("generate", shards, on_images)
        return Filled(self, tuple(shards))


@dataclass(frozen=True)
class Filled:
    """N generated images, which lie in the store in shards; rows go class by class."""

    source: ImageSource
    shards: Sequence[GeneratedShard]

    @cached_property
    def _rows(self) -> tuple[Ints, Ints, Ints]:
        return by_class(self.shards)

    @property
    def labels(self) -> Ints:
        """(N,) classes asked for, ascending."""
        return self._rows[0]

    @property
    def indices(self) -> Ints:
        """(N,) which image of its class each one is: with checkpoint, sampling, seed and class it decides the image."""
        return self._rows[1]

    @property
    def positions(self) -> Ints:
        """(N,) the row of each image, in the order of the shards."""
        return self._rows[2]

    def read(self, rows: Ints) -> Pixels:
        """Return the images at `rows` (n,), uint8 (n, C, H, W); only their shards are read."""
        wanted = np.stack([self.labels[rows], self.indices[rows]], axis=1)
        return read_images(self.source.store.root, self.shards, wanted)

    def read_all(self) -> PackedImages:
        """Return all images, class by class."""
        root, manifest = self.source.store.root, self.source.manifest
        sampler = ShardSampler(root, Models(self.source.store, self.source.checkpoint))
        images = np.empty((len(self.labels), *manifest.image_shape), np.uint8)
        done = 0
        for shard in self.shards:
            rows = self.positions[done : (done := done + len(shard))]
            images[rows] = sampler.generate(shard)
        return PackedImages(images, self.labels, tuple(manifest.class_names))
