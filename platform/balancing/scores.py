"""What generated images are filtered by: their distances to training images, and what f_0 says.

Each shard's scores lie in the store beside its images, keyed by the training images and f_0, so that a
changed filter reads them and computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from ...trainers.classification.trained import TrainedClassifier
from ...trainers.data import PackedImages, Splits
from ...trainers.errors import CheckpointProblem, DataProblem
from ...trainers.export import Exported
from ...trainers.sampling import SamplingConfig
from ..evaluation.arrays import Floats, Floats32, Ints
from ..evaluation.metrics.memorisation import TrainingImages
from ..foundation.background import Lazy
from ..generation.loading import Models, load_training_images
from ..generation.shard_tasks import NearestSearch
from ..generation.shards import (
    GeneratedShard,
    OnImagesDone,
    nearest_name,
    read,
    read_kept,
    short_hash,
    write,
)
from ..generation.workers import Workers
from ..storage import layout
from ..storage.store import Storage
from .distances import nearest_in_class
from .f0 import check_f0, f0_key, fingerprint, probabilities, read_f0
from .filling import Filled

FORMAT = 1
"""Raise it when a score changes its meaning: images are then scored again."""
READERS = 8
"""Files that are read at a time: of a bucket, each of them is waited for."""


@dataclass(frozen=True)
class Scores:
    """The scores of N generated images, each array (N,) in the rows of `Filled`.

    DiffuLT, equations 5 to 7; training images are indices into the training split.
    """

    pixel_distance: Floats32
    """d1, the smallest L2 distance to a training image of the same class, pixels in 0..255."""
    nearest_pixels: Ints
    """That training image; the first of several."""
    feature_distance: Floats32
    """d2, the smallest L2 distance to a training image of the same class in f_0's features."""
    nearest_features: Ints
    """That training image."""
    probability: Floats
    """d3, the probability in [0, 1] that f_0 gives the class asked for."""
    copy_ratio: Floats
    """How near a copy of a training image of any class it is: `evaluation.metrics.memorisation.Copies`."""
    copy_of: Ints
    """The training image that the ratio is of."""


def score(
    filled: Filled,
    splits: Splits,
    f0: TrainedClassifier,
    workers: int | Literal["all"],
    on_phase: Callable[[str], None] = lambda _line: None,
) -> Scores:
    """Return the scores of generated images; those in the store are not computed again.

    Args:
        splits: `train` is what the images are compared with.
        f0: what `load_f0` returned for it; workers on Ray read it from the store.
        workers: 1 scores in this process, more on Ray.

    Raises:
        DataProblem: f_0 is of other classes or another shape.
    """
    check_f0(f0, splits.train)
    source = filled.source
    root, train = source.store.root, splits.train
    names, (key, content) = score_files(filled, train, f0), _keys(train, f0)
    with ThreadPoolExecutor(READERS) as readers:
        kept = list(readers.map(partial(read_kept, root), names))
    missing = [shard for shard, part in zip(filled.shards, kept, strict=True) if part is None]
    if missing:
        make = (
            partial(TrainingImages, train.images, train.labels, train.fingerprint())
            if workers == 1
            else partial(load_training_images, source.experiment, root)
        )
        models, total = Models(source.store, source.checkpoint), sum(map(len, missing))
        worker = ScoreWorker(
            root,
            models,
            Lazy(make),
            Lazy(partial(_same_f0, root, key, fingerprint(f0)), f0),
            partial(layout.shard_scores, classifier=key, content=content),
            train.fingerprint(),
        )
        with closing(models), Workers(worker, workers, source.experiment.scaling) as pool:
            pool.run(
                "score",
                missing,
                lambda n: on_phase(f"scoring images: {int(n):,} of {total:,}"),
            )
    parts = [
        read(root, name) if part is None else part for name, part in zip(names, kept, strict=True)
    ]
    order = filled.positions.argsort()
    return Scores(**{key: np.concatenate([part[key] for part in parts])[order] for key in parts[0]})


def score_files(filled: Filled, train: PackedImages, f0: TrainedClassifier) -> list[str]:
    """Return the file of each shard's scores, from the store's top, whether it exists or not."""
    key, content = _keys(train, f0)
    return [layout.shard_scores(shard.stem, key, content) for shard in filled.shards]


def _keys(train: PackedImages, f0: TrainedClassifier) -> tuple[str, str]:
    """Return what f_0 is known by, and a hash of all that scores depend on besides the image."""
    content = short_hash([FORMAT, train.fingerprint(), fingerprint(f0)])
    return f0_key(train, f0.config), content


class ScoreWorker(NearestSearch):
    """Scores the images of shards; pickles into workers, which load what it needs themselves.

    Args:
        training: the training images.
        f0: the classifier.
        name_of: returns the file of the scores of the shard with a stem.
        train: fingerprint of the training images.
    """

    def __init__(
        self,
        root: Storage,
        models: Callable[[SamplingConfig], Exported],
        training: Lazy[TrainingImages],
        f0: Lazy[TrainedClassifier],
        name_of: Callable[[str], str],
        train: str,
    ) -> None:
        super().__init__(root, models, training)
        self.f0, self.name_of, self.train = f0, name_of, train
        self.features = Lazy(partial(_features_of, training, f0))
        """Of the training images, (m, d)."""

    def score(self, shard: GeneratedShard, on_progress: OnImagesDone = lambda _done: None) -> None:
        """Write the scores of a shard's images."""
        name = self.name_of(shard.stem)
        if read_kept(self.root, name) is not None:
            return
        training, f0, labels = self.training(), self.f0(), shard.labels
        if training.fingerprint != self.train:
            raise DataProblem(
                "a worker reads other training images than the command",
                "give all machines the same files at the path that `data` names",
            )
        self.find_nearest(shard, on_progress)
        copies = read(self.root, nearest_name(shard, training))
        images = self.generate(shard, on_progress)
        features = f0.features(images)  # (n, d)
        pixels = nearest_in_class(images, labels, training.images, training.labels)  # eq. 5
        near = nearest_in_class(features, labels, self.features(), training.labels)  # eq. 6
        scores = Scores(
            pixel_distance=pixels.distance,
            nearest_pixels=pixels.index,
            feature_distance=near.distance,
            nearest_features=near.index,
            probability=probabilities(f0, features)[np.arange(len(labels)), labels],  # eq. 7
            copy_ratio=copies["ratio"],
            copy_of=copies["nearest"],
        )
        write(self.root, name, vars(scores))


def _features_of(training: Lazy[TrainingImages], f0: Lazy[TrainedClassifier]) -> Floats32:
    return f0().features(training().images)


def _same_f0(root: Storage, key: str, content: str) -> TrainedClassifier:
    """Return the store's f_0 on a worker.

    Raises:
        CheckpointProblem: it is not the one that the command has.
    """
    f0 = read_f0(root, key)
    if f0 is None or fingerprint(f0) != content:
        raise CheckpointProblem(
            f"{root.uri_of(layout.classifier_weights(key))}: not the classifier f_0 of this command",
            "repeat the command: it reads it again, or trains it",
        )
    return f0
