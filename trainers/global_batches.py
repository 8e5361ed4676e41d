"""The global batch of each step: order, images, flips and augmentation, the same for any worker."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from .data import PackedImages
from .data.batches import gather, to_float
from .data.order import IndexOrder
from .objectives import Batch
from .randomness import BatchRandom, derive_seed, random_words
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


class GlobalBatches:
    """Rows of the global batches of one training."""

    def __init__(self, config: TrainerConfig, train: PackedImages, device: torch.device) -> None:
        self.config, self.train, self.device = config, train, device
        self.order = IndexOrder(
            train.labels, train.num_classes, config.data.class_sampling, config.seed
        )
        self._whole: tuple[int, Batch] | None = None

    def rows(self, images_seen: int, first: int, count: int) -> Batch:
        """Return `count` rows, from `first` on, of the global batch that follows `images_seen`."""
        size = self.config.training.batch_size
        rng = BatchRandom(self.config.seed, images_seen // size, first, count, self.device)
        indices = self.order.indices(images_seen + first, count)
        flip = None
        if self.config.data.flip:
            flip = self._on_device(rng.uniform("flip")[:, 0] < 0.5)
        images = to_float(gather(self.train, indices, self.device), flip)
        images, numbers = self.config.augmentation(images, rng)
        return Batch(
            images=images,
            labels=self._on_device(torch.from_numpy(self.train.labels[indices])),
            extra={} if numbers is None else {"augmentation": numbers},
            load_whole=None if count == size else partial(self._load_whole, images_seen),
        )

    def _load_whole(self, images_seen: int) -> Batch:
        """Return the global batch, made once for all pieces of a step."""
        if self._whole is None or self._whole[0] != images_seen:
            whole = self.rows(images_seen, 0, self.config.training.batch_size)
            self._whole = (images_seen, whole)
        return self._whole[1]

    def _on_device(self, values: Tensor) -> Tensor:
        return values.to(self.device, non_blocking=True)
