"""What generated images give to a classifier beyond balance and repetition (CBDM table 4, DiffuLT).

Classifiers are trained with several seeds on different sets, the arms, and tested on the same real images:

- `real`: the real long-tailed images.
- `repeated`: also as many copies of each class's real images as the arm with generated images adds.
- `augmented`: the same copies, each changed once by TrivialAugment.
- `generated`: also the generated images. Where a filter is set, three take its place:
- `unfiltered`: all of them, which are more images than in any other arm.
- `random`: as many of each class as the filter keeps, chosen at random, anew for each seed.
- `filtered`: those that the filter keeps.

Added images balance the classes and lengthen the training, whatever they show. The copies gain that much
too, so only a gain over them is due to the content of the generated images. They are as many as
`generated` or `filtered` adds, class by class: nothing of a class of which the filter keeps nothing.

A trained classifier is kept under a hash of all that it depends on, at the store's top: runs on the same
data share the arms that have no generated images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...trainers.classification.config import ClassificationConfig
from ...trainers.data import Splits
from ...trainers.data.groups import group_classes
from ...trainers.data.report import listed, shown
from ...trainers.data.validation import hash_pixels
from ...trainers.errors import UsageProblem
from ..config.experiment import Experiment
from ..evaluation.arrays import Bools
from ..generation.shards import short_hash
from .added_images import AddedImages, augment_real_images, repeat_real_images, take_generated
from .candidates import Candidates
from .classifiers import FORMAT, ClassifierRun, ClassifierTraining, Outcome, train_missing
from .filling import Counts, ImageSource
from .filters import random_like
from .summary import summarise

OnPhase = Callable[[str], None]

MOST = 0.5
"""Share of the training images above which they cannot be among the test images by chance."""

LOOKED_AT = 1000
"""Training images that are looked for among the test images, evenly spaced."""

ArmName = Literal["real", "repeated", "augmented", "unfiltered", "random", "filtered", "generated"]


@dataclass(frozen=True)
class Measured:
    """Trained and tested classifiers, summarised."""

    document: dict[str, Any]
    """What was trained on what, and what `summarise` returns, as JSON types."""
    content: str
    """A hash of all that it depends on."""
    trained: int
    """Classifiers that had to be trained; 0 where all were in the store."""


def arms_of(is_filtered: bool) -> tuple[ArmName, ...]:
    """Return all arms, with a filter or without, in the order of tables."""
    if is_filtered:
        return ("real", "repeated", "augmented", "unfiltered", "random", "filtered")
    return ("real", "repeated", "augmented", "generated")


def measure(
    source: ImageSource,
    counts: Counts,
    arms: Sequence[ArmName],
    seeds: int = 1,
    workers: int | Literal["all"] = 1,
    on_phase: OnPhase = lambda _line: None,
    mask: Bools | None = None,
    on_share: Callable[[float], None] = lambda _share: None,
) -> Measured:
    """Train and test the arms with seeds 0, 1, ...; what is in the store is not made again.

    The generated images are the same for every seed, as in the papers: the intervals cover the
    classifier's training, not other generated images or another diffusion model. All arms of a seed
    start from the same weights. With `classification.epoch_of` all, each image is seen as often in every
    arm, and arms that add as many images take as many steps; `real` takes fewer and `unfiltered` more,
    which `images.steps` says. With real, all arms take the same number of steps.

    Args:
        source: its experiment's `balancing.filter`, `classification`, `evaluation.groups` and `scaling`
            say what is kept, and how classifiers are trained and tested.
        counts: (C,) images of each class to generate.
        arms: of `arms_of`.
        workers: 1 generates and trains in this process, more on Ray, each with the resources of
            `scaling.*`; `all`: as many as the cluster has room for.
        mask: (N,) the images that the filter keeps, in the rows of `Filled`; None: it is applied now.
        on_share: takes the share of the classifiers to train, in [0, 1], that are done.

    Raises:
        UsageProblem: less than one seed or worker; or a class whose test images were trained on.
        DataProblem: a class has no real image to repeat.
        Problem: a training failed.
    """
    for option, value in (("--seeds", seeds), ("--workers", workers)):
        if value != "all" and value < 1:
            raise UsageProblem(f"{option} is {value}", "give at least 1")
    candidates = Candidates(source, counts, workers, on_phase, mask)
    bench = Bench.of(source.experiment, source.splits)
    classifiers = [
        bench.training.run(arm, seed, bench.splits, added_images(arm, seed, candidates))
        for seed in range(seeds)
        for arm in arms
    ]
    outcomes, trained = train_missing(
        source.store.root,
        bench.training,
        bench.splits,
        lambda: candidates.images,
        classifiers,
        workers,
        source.experiment.scaling,
        on_phase,
        on_share,
    )
    by_arm: dict[str, list[Outcome]] = {
        arm: [outcomes[each] for each in classifiers if each.arm == arm] for arm in arms
    }
    document = {
        "format": FORMAT,
        "checkpoint": source.checkpoint,
        "images_seen": source.manifest.images_seen,
        "classification": bench.training.config.model_dump(mode="json"),
        "sampling": source.experiment.sampling.model_dump(mode="json"),
        "groups": bench.training.groups,
        "images": bench.images(classifiers),
        "seeds": list(range(seeds)),
        "warnings": [] if candidates.mask.all() else list(candidates.warnings()),
        **summarise(
            by_arm,
            bench.training.groups,
            bench.splits.reference.class_counts,
            source.experiment.evaluation.confidence,
        ),
    }
    return Measured(document, short_hash([each.key for each in classifiers]), trained)


def added_images(arm: ArmName, seed: int, candidates: Candidates) -> AddedImages | None:
    """Return what an arm adds to the real images; no image is made."""
    real = candidates.source.splits.train
    if arm == "real":
        return None
    if arm == "repeated":
        return repeat_real_images(real, candidates.kept_counts)
    if arm == "augmented":
        return augment_real_images(real, candidates.kept_counts, seed)
    planned = candidates.planned
    if arm == "unfiltered":
        rows = np.arange(len(planned.labels))
    elif arm == "random":
        rows = np.flatnonzero(random_like(candidates.mask, planned.labels, seed))
    else:
        rows = np.flatnonzero(candidates.mask)
    return take_generated(planned, rows)


@dataclass(frozen=True)
class Bench:
    """What all classifiers of a comparison are trained and tested by."""

    splits: Splits
    """Tested on `reference`, of which every class counts alike."""
    training: ClassifierTraining

    @classmethod
    def of(cls, experiment: Experiment, splits: Splits) -> Bench:
        """Take the settings from an experiment.

        Raises:
            UsageProblem: a class without test images, or with some that it was trained on; or groups that
                do not fit the classes.
        """
        _check_test_images(splits)
        training = ClassifierTraining(
            group_classes(splits.train.class_counts.tolist(), experiment.evaluation.groups),
            experiment.effective_classification,
            experiment.scaling.cpus_per_worker,
        )
        return cls(splits, training)

    def images(self, classifiers: Sequence[ClassifierRun]) -> dict[str, Any]:
        """Return the images of each class that were trained and tested on, and each arm's steps."""
        real, config = self.splits.train.class_counts, self.training.config
        added = {
            each.arm: (0 * real if each.added is None else each.added.counts)
            for each in classifiers
        }
        return {
            "real": real.tolist(),
            "test": self.splits.reference.class_counts.tolist(),
            "added": {arm: counts.tolist() for arm, counts in added.items()},
            "steps": {
                arm: steps(config, int(real.sum()), int(counts.sum()))
                for arm, counts in added.items()
            },
        }


def steps(config: ClassificationConfig, real: int, added: int) -> int:
    """Return the steps of a training on `real` images and `added` ones."""
    per_epoch = real if config.epoch_of == "real" else real + added
    return config.epochs * -(-per_epoch // config.batch_size)


def _check_test_images(splits: Splits) -> None:
    """Check that every class has test images, and none that it was trained on.

    Raises:
        UsageProblem: naming the classes; or most training images are among those to test on.
    """
    if splits.borrowed:
        names = listed([shown(splits.train.class_names[c]) for c in splits.borrowed])
        raise UsageProblem(
            f"classifiers cannot be tested on {names}: too few images to hold some out, and all are trained on",
            "add images of these classes, or set evaluation.reference to others of all classes",
        )
    some = splits.train.images[:: -(-len(splits.train.images) // LOOKED_AT)]
    ours, theirs = hash_pixels(some), hash_pixels(splits.reference.images)
    if np.isin(ours, theirs).mean() > MOST:  # some data sets have a few images twice
        raise UsageProblem(
            "classifiers would be tested on images that they are trained on",
            "set evaluation.reference to images of all classes that are not trained on",
        )
    without = np.flatnonzero(splits.reference.class_counts == 0)
    if len(without):
        names = listed([shown(splits.train.class_names[c]) for c in without])
        raise UsageProblem(
            f"classifiers cannot be tested on {names}: no test image",
            "add images of these classes, or set evaluation.reference to others of all classes",
        )
