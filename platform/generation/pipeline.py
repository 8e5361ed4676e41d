"""What an evaluation reads of many images: features, logits, and the nearest training images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from ..evaluation.arrays import Ints
from ..evaluation.extractors.base import Extracted, OnPhase
from ..evaluation.metrics.memorisation import NearestImages
from ..storage.layout import shard_images
from .shard_tasks import ShardWorker
from .shards import (
    GeneratedShard,
    Shard,
    by_class,
    read_features,
    read_nearest,
    real_shards,
)
from .workers import ShardTask, Workers


@dataclass(frozen=True)
class GeneratedImages:
    """N generated images, class by class; the images themselves stay in their shards."""

    shards: Sequence[GeneratedShard]
    labels: Ints
    """(N,) classes asked for."""
    indices: Ints
    """(N,) which image of its class each one is."""
    features: Extracted
    nearest: NearestImages | None
    """None where they were not looked for."""


class ImagePipeline:
    """Generate images and extract features, in shards; what is in the store is not made again.

    Use as a context: workers live as long as it does.

    Args:
        shard_worker: what is done for one shard.
        workers: who does it.
        shard_size: about how many images are in a shard.
        on_phase: takes a line about what is being done.

    Attributes:
        on_generated: takes the share in [0, 1] of the images to generate that are done.
    """

    def __init__(
        self, shard_worker: ShardWorker, workers: Workers, shard_size: int, on_phase: OnPhase
    ) -> None:
        self.shard_worker, self.workers = shard_worker, workers
        self.shard_size, self.on_phase = shard_size, on_phase
        self.on_generated: Callable[[float], None] = lambda _share: None
        self.images_generated = 0
        """0 where all images were in the store."""
        self.seconds: dict[str, float] = {}
        """What took how long, in words, since it was last emptied."""

    def __enter__(self) -> Self:
        self.workers.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.workers.__exit__(*error)

    def extract_real(self) -> Extracted:
        """Return the features of the reference images."""
        reference = self.shard_worker.splits().reference
        shards = real_shards(reference, self.shard_size)
        self._run(
            "extract_features",
            "features of real images",
            shards,
            lambda at: f"features of {at} real images",
        )
        return read_features(self.shard_worker.root, shards, self._extractor_key)

    def generate(
        self, shards: Sequence[GeneratedShard], description: str, find_nearest: bool
    ) -> GeneratedImages:
        """Generate images and extract their features.

        Args:
            shards: all of one folder.
            description: the sampling setting, in words.
            find_nearest: also compare each image with all training images.
        """
        root = self.shard_worker.root
        existing = root.list(shards[0].folder)
        new = [shard for shard in shards if shard_images(shard.stem) not in existing]
        self.images_generated += sum(map(len, new))
        self._run(
            "extract_features",
            "generating images, and their features",
            shards,
            lambda at: f"generated {at} images ({description})",
            self.on_generated,
        )
        labels, indices, rows = by_class(shards)
        nearest = None
        if find_nearest:
            self._run(
                "find_nearest",
                "comparing with training images",
                shards,
                lambda at: f"compared {at} images with training images ({description})",
            )
            training = self.shard_worker.training()
            nearest = NearestImages(
                **read_nearest(root, shards, training, rows), labels=labels, pooled=training.pooled
            )
        features = read_features(root, shards, self._extractor_key, rows)
        return GeneratedImages(shards, labels, indices, features, nearest)

    @property
    def _extractor_key(self) -> str:
        return self.shard_worker.extractor().info.key

    def _run(
        self,
        task: ShardTask,
        piece: str,
        shards: Sequence[Shard],
        words: Callable[[str], str],
        on_share: Callable[[float], None] = lambda _share: None,
    ) -> None:
        total = sum(map(len, shards))

        def on_images_done(done: float) -> None:
            self.on_phase(words(f"{int(done):,} of {total:,}"))
            on_share(done / total)

        on_images_done(0)
        begin = time.perf_counter()
        self.workers.run(task, shards, on_images_done)
        self.seconds[piece] = time.perf_counter() - begin
