"""What an evaluation needs, opened from an experiment: the model, the real images, the extractor.

Functions of what pickles, so that a worker can open its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...trainers.data import PackedImages, Splits
from ...trainers.engine import choose_device
from ...trainers.export import Exported, load_exported
from ...trainers.scratch import Scratch
from ..config.experiment import Experiment, cache_folder
from ..evaluation.extractors import build_extractor
from ..evaluation.extractors.base import Extractor, OnPhase
from ..evaluation.metrics.memorisation import TrainingImages
from ..storage.pretrained import export_run
from ..storage.store import Storage

MOST_UNEVEN = 1.2
"""Real images of the largest class over those of the smallest, from which the larger are cut."""


def load_model(store: Storage, checkpoint: str, experiment: Experiment) -> Exported:
    """A checkpoint's EMA model, ready to sample from, on the device that there is."""
    with Scratch() as scratch:
        export_run(store, checkpoint, experiment.sampling, Path(scratch))
        return load_exported(Path(scratch) / "model", choose_device())


def load_splits(experiment: Experiment) -> Splits:
    """What was trained on, and what is compared with: `evaluation.reference` where it is given."""
    cache, other = cache_folder(), experiment.evaluation.reference
    own = experiment.data.load(cache)
    reference = (other.load(cache) if other else own).reference
    return Splits(own.train, balanced(reference))


def balanced(images: PackedImages) -> PackedImages:
    """All of them where the classes have about as many; else as many of each as the smallest has.

    Images are generated for every class alike: against uneven real images, even a perfect generator
    would be far off.
    """
    counts = images.class_counts
    least = int(counts.min())
    if counts.max() <= MOST_UNEVEN * least:
        return images
    generator = np.random.default_rng(0)
    rows = [
        generator.permutation(np.flatnonzero(images.labels == c))[:least]
        for c in range(images.num_classes)
    ]
    return images.select(np.sort(np.concatenate(rows)))


def load_training_images(experiment: Experiment) -> TrainingImages:
    """What copies are looked for in; mirrored too where the model has seen mirror images."""
    train = experiment.data.load(cache_folder()).train
    mirrored = experiment.data.flip or experiment.augmentation.flips
    return TrainingImages(train.images, train.labels, train.fingerprint(), mirrored)


def describe_reference(experiment: Experiment) -> str:
    """The reference images' source in a few words, without paths."""
    source = experiment.evaluation.reference or experiment.data
    split = getattr(source, "reference", None) or getattr(source, "reference_split", "reference")
    return f"{source.source}, {split}"


def load_extractor(
    experiment: Experiment, splits: Splits, root: Storage, on_phase: OnPhase = lambda _line: None
) -> Extractor:
    """The extractor of `evaluation.features`."""
    config = experiment.evaluation.features
    return build_extractor(
        config, splits.reference, cache_folder(), root, choose_device(), on_phase
    )


def reload_extractor(experiment: Experiment, root: Storage) -> Extractor:
    """The same in another process."""
    return load_extractor(experiment, load_splits(experiment), root)
