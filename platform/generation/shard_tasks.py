"""What is done with each shard: it is generated, its features extracted, near copies looked for in it.

Each result is kept in the store, and not made again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from ...trainers.data import Splits
from ...trainers.data.batches import to_uint8
from ...trainers.export import Exported
from ...trainers.guidance import Autoguidance, Denoiser
from ...trainers.sampling import SamplingConfig
from ..evaluation.arrays import Pixels
from ..evaluation.extractors.base import Extractor
from ..evaluation.metrics.memorisation import TrainingImages
from ..foundation.background import Lazy
from ..storage import layout
from ..storage.store import Storage
from .loading import load_stored_guide
from .shards import (
    GeneratedShard,
    OnImagesDone,
    Shard,
    features_name,
    nearest_name,
    read_kept,
    write,
)


class ShardSampler:
    """Generates shards; pickles into workers, which load the model themselves.

    Args:
        root: the store's top.
        models: returns the model for sampling settings; has to pickle where this does.
    """

    def __init__(self, root: Storage, models: Callable[[SamplingConfig], Exported]) -> None:
        self.root, self.models = root, models
        self._guide: tuple[str | None, Lazy[Denoiser]] | None = None

    def generate(
        self, shard: GeneratedShard, on_progress: OnImagesDone = lambda _done: None
    ) -> Pixels:
        """Return a shard's images (n, C, H, W), from the store, or generated and kept there."""
        name = layout.shard_images(shard.stem)
        if (kept := read_kept(self.root, name)) is not None:
            return kept["images"]
        floats = self.models(shard.sampling).sample(
            torch.from_numpy(shard.labels),
            shard.sampling,
            shard.seed,
            guide=self._guide_of(shard.sampling),
            indices=torch.from_numpy(shard.indices),
            on_progress=on_progress,
        )
        images: Pixels = to_uint8(floats).numpy()
        write(self.root, name, {"images": images})
        return images

    def _guide_of(self, sampling: SamplingConfig) -> Denoiser | None:
        """Return the model that guides, the last one kept."""
        guidance = sampling.guidance
        if not isinstance(guidance, Autoguidance):
            return None
        if self._guide is None or self._guide[0] != guidance.content:
            make = partial(load_stored_guide, self.root, guidance)
            self._guide = guidance.content, Lazy(make)
        return self._guide[1]()


class NearestSearch(ShardSampler):
    """Generates shards, and looks for near copies in them.

    Args:
        training: training images that generated ones are compared with.
    """

    def __init__(
        self,
        root: Storage,
        models: Callable[[SamplingConfig], Exported],
        training: Lazy[TrainingImages],
    ) -> None:
        super().__init__(root, models)
        self.training = training

    def find_nearest(
        self, shard: GeneratedShard, on_progress: OnImagesDone = lambda _done: None
    ) -> None:
        """Write the nearest training image of each of a shard's images, and how both fit."""
        training = self.training()
        name = nearest_name(shard, training)
        if read_kept(self.root, name) is not None:
            return
        write(self.root, name, vars(training.find_nearest(self.generate(shard, on_progress))))


class ShardWorker(NearestSearch):
    """Generates shards, and computes what an evaluation reads of them.

    Args:
        extractor: what makes features.
        splits: the real images.
        training: training images that generated ones are compared with.
        batch_size: images that go through the extractor at a time.
    """

    def __init__(
        self,
        root: Storage,
        models: Callable[[SamplingConfig], Exported],
        extractor: Lazy[Extractor],
        splits: Lazy[Splits],
        training: Lazy[TrainingImages],
        batch_size: int,
    ) -> None:
        super().__init__(root, models, training)
        self.extractor, self.splits = extractor, splits
        self.batch_size = batch_size

    def extract_features(
        self, shard: Shard, on_progress: OnImagesDone = lambda _done: None
    ) -> None:
        """Write the features and logits of a shard's images."""
        name = features_name(shard, self.extractor().info.key)
        if read_kept(self.root, name) is not None:
            if isinstance(shard, GeneratedShard):
                self.generate(shard, on_progress)  # a report shows some of the images
            return
        if isinstance(shard, GeneratedShard):
            images = self.generate(shard, on_progress)
        else:
            images = self.splits().reference.images[shard.first : shard.first + shard.count]
        extracted = self.extractor().extract(images, self.batch_size)
        arrays = {"features": extracted.features, "logits": extracted.logits}
        if extracted.own_logits is not None:
            arrays["own_logits"] = extracted.own_logits
        write(self.root, name, arrays)
