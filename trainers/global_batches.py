"""The global batch of each step: order, images, flips and augmentation, the same for any worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from .augmentations import NoAugmentation
from .data import PackedImages
from .data.batches import load, to_float
from .data.order import IndexOrder
from .objectives import Batch
from .prefetch import Prefetch
from .randomness import BatchRandom, Request, derive_seed, random_words
from .trainer_config import LoopConfig, TrainerConfig


def part_of_many(train: PackedImages, config: LoopConfig, seed: int) -> PackedImages:
    """Return the images that the model is trained on: `share_of_many` of each class of many, all of the others.

    At least one image of every class is kept.
    """
    if config.share_of_many == 1:
        return train
    kept = []
    for c, count in enumerate(train.class_counts.tolist()):
        rows = np.flatnonzero(train.labels == c)
        if count > config.many_above:
            words = random_words(derive_seed(seed, "share of many", c), 0, count)
            rows = rows[words.argsort(kind="stable")[: max(1, round(config.share_of_many * count))]]
        kept.append(rows)
    return train.select(np.sort(np.concatenate(kept)))


@dataclass(frozen=True)
class Rows:
    """Some rows of a global batch."""

    images_seen: int
    """Before that batch."""
    first: int
    count: int


@dataclass(frozen=True)
class Prepared:
    """What the host knows of some rows before the device needs it."""

    images: Tensor
    """(B, C, H, W) uint8; in pinned memory where a GPU copies from it."""
    labels: Tensor
    """(B,) int64."""
    rng: BatchRandom
    """Of these rows."""


class GlobalBatches:
    """Rows of the global batches of one training; a thread prepares those that this worker takes next.

    Args:
        rank: of this worker.
        world: workers, which share a batch evenly.
    """

    def __init__(
        self,
        config: TrainerConfig,
        train: PackedImages,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.config, self.train, self.device = config, train, device
        self.size, self.world = config.training.batch_size, world
        self.share = self.size // world
        self.first = rank * self.share
        self.order = IndexOrder(
            train.labels, train.num_classes, config.data.class_sampling, config.seed
        )
        self._asked: dict[Request, None] = {}
        self._prefetch = Prefetch(self._prepare, self._following)
        self._whole: tuple[int, Batch] | None = None

    def rows(self, images_seen: int, first: int, count: int) -> Batch:
        """Return `count` rows, from `first` on, of the global batch that follows `images_seen`."""
        return self.rows_and_random(images_seen, first, count)[0]

    def rows_and_random(
        self, images_seen: int, first: int, count: int
    ) -> tuple[Batch, BatchRandom]:
        """Return some rows, as `rows`, and their random numbers.

        Raises:
            DataProblem: images that cannot be read, also where the thread came upon it.
        """
        prepared = self._prefetch.take(Rows(images_seen, first, count))
        pixels = self._on_device(prepared.images)
        images, numbers = self.config.augmentation(
            to_float(pixels, self._flip(prepared.rng)), prepared.rng
        )
        load_whole = None
        if count < self.size:
            shared = (pixels if self._sends_pixels else images) if count == self.share else None
            load_whole = partial(self._load_whole, images_seen, shared)
        batch = Batch(
            images=images,
            labels=self._on_device(prepared.labels),
            extra={} if numbers is None else {"augmentation": numbers},
            load_whole=load_whole,
        )
        return batch, prepared.rng

    def close(self) -> None:
        """End the thread."""
        self._prefetch.close()

    # -- on the thread ------------------------------------------------------------------------------

    def _prepare(self, rows: Rows) -> Prepared:
        indices = self.order.indices(rows.images_seen + rows.first, rows.count)
        rng = self._rng(rows.images_seen, rows.first, rows.count)
        return Prepared(
            images=load(self.train, indices, pinned=self.device.type == "cuda"),
            labels=torch.from_numpy(self.train.labels[indices]),
            rng=rng.make_ahead(self._asked),
        )

    def _following(self, rows: Rows) -> Iterator[Rows]:
        """Yield the pieces of this worker's shares that come after one."""
        while True:
            first = rows.first + rows.count
            if first < self.first + self.share:
                rows = replace(rows, first=first)
            else:
                rows = Rows(rows.images_seen + self.size, self.first, rows.count)
            yield rows

    # -- the global batch ---------------------------------------------------------------------------

    @property
    def _sends_pixels(self) -> bool:
        """Whether workers exchange bytes: without an augmentation, whose results are none."""
        return isinstance(self.config.augmentation, NoAugmentation)

    def _load_whole(self, images_seen: int, shared: Tensor | None) -> Batch:
        """Return the global batch, made once for all pieces of a step; every worker calls it.

        Each worker sends its own rows to all others: at 4,096 rows of 3x64x64 each receives 50 MB of bytes. Rows
        that are augmented are sent as they are then, in float32, which is four times as much.

        Args:
            shared: this worker's rows as they are sent, None where they are still to be made.
        """
        if self._whole is None or self._whole[0] != images_seen:
            if shared is None:
                shared = self._own_rows(images_seen)
            images = self._all_gather(shared)
            if self._sends_pixels:
                images = to_float(images, self._flip(self._rng(images_seen, 0, self.size)))
            labels = self.train.labels[self.order.indices(images_seen, self.size)]
            labels_there = self._on_device(torch.from_numpy(labels))
            self._whole = (images_seen, Batch(images, labels_there))
        return self._whole[1]

    def _own_rows(self, images_seen: int) -> Tensor:
        """Return all rows of this worker as they are sent, whatever its pieces."""
        prepared = self._prepare(Rows(images_seen, self.first, self.share))
        pixels = self._on_device(prepared.images)
        if self._sends_pixels:
            return pixels
        images, _ = self.config.augmentation(
            to_float(pixels, self._flip(prepared.rng)), prepared.rng
        )
        return images

    def _all_gather(self, own: Tensor) -> Tensor:
        """Return the rows of all workers, in the order of the global batch."""
        if self.world == 1:
            return own
        everyone = own.new_empty(self.size, *own.shape[1:])
        dist.all_gather_into_tensor(everyone, own.contiguous())
        return everyone

    # -- what both have in common -------------------------------------------------------------------

    def _rng(self, images_seen: int, first: int, count: int) -> BatchRandom:
        return BatchRandom(self.config.seed, images_seen // self.size, first, count, self.device)

    def _flip(self, rng: BatchRandom) -> Tensor | None:
        """Return which rows are mirrored, (B,) bool on the device."""
        if not self.config.data.flip:
            return None
        return self._on_device(rng.uniform("flip")[:, 0] < 0.5)

    def _on_device(self, values: Tensor) -> Tensor:
        return values.to(self.device, non_blocking=True)
