"""Train classifiers, in this process or on Ray actors, and keep the outcome of each by its content."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from ...trainers.classification.config import ClassificationConfig
from ...trainers.classification.fit import train_and_test
from ...trainers.data import PackedImages, Splits
from ...trainers.devices import choose_device
from ...trainers.integrity import Altered, seal, unseal
from ..compute.actor_pool import ActorPool
from ..compute.capacity import cluster_capacity, no_room, with_gpu_if_any
from ..compute.ray_session import ray_session
from ..config.scaling import ScalingConfig
from ..generation.shards import short_hash
from ..storage.layout import CLASSIFIERS, classifier_file
from ..storage.store import Storage
from .added_images import AddedImages
from .data_parallel import train_on_all_workers

FORMAT = 4
"""Of a classifier's outcome and of what is summarised; raise it when a value changes its meaning."""
ONLY_WITH_ADDED = {"epoch_of", "generated_weight"}
"""Settings that have no effect where no images are added."""

OnPhase = Callable[[str], None]
Outcome = dict[str, Any]
"""The test results of one classifier, as JSON types."""


@dataclass(frozen=True)
class ClassifierRun:
    """One classifier to train."""

    arm: str
    seed: int
    key: str
    """A hash of all that the classifier depends on."""
    added: AddedImages | None = field(compare=False)
    """What it is trained on besides the real images."""

    @property
    def file(self) -> str:
        """Path of the outcome, from the store's top."""
        return classifier_file(self.key)


Results = Generator[tuple[ClassifierRun, Outcome], None, None]
"""Outcomes in the order in which they are ready; the generator has to be closed."""


@dataclass(frozen=True)
class ClassifierTraining:
    """Everything that the classifiers of a comparison share, but for images."""

    groups: Mapping[str, Sequence[int]]
    config: ClassificationConfig
    cpus: int
    """Threads of a training on the CPU; another number may change the last bits of a result."""

    def run(self, arm: str, seed: int, splits: Splits, added: AddedImages | None) -> ClassifierRun:
        """Return a classifier to train, under a hash of all that it depends on."""
        without_effect = None if added else ONLY_WITH_ADDED
        content = [
            FORMAT,
            seed,
            splits.train.fingerprint(),
            splits.reference.fingerprint(),
            self.groups,
            self.config.model_dump(mode="json", exclude=without_effect),
            added and added.depends_on,
        ]
        return ClassifierRun(arm, seed, short_hash(content), added)

    def train(
        self,
        splits: Splits,
        generated: PackedImages | None,
        classifier: ClassifierRun,
        on_phase: OnPhase = lambda _line: None,
    ) -> Outcome:
        """Train and test one classifier.

        Args:
            splits: trains on one, tests on the other.
            generated: all generated images, of which each classifier takes its own.
        """
        import torch

        device = choose_device()
        if device.type == "cpu":
            torch.set_num_threads(self.cpus)
        added = None
        if classifier.added is not None:
            added = classifier.added.make(splits.train, generated)
        outcome = train_and_test(
            splits.train,
            splits.reference,
            self.groups,
            self.config,
            classifier.seed,
            device,
            added,
            on_phase,
        )
        return {
            "seed": classifier.seed,
            "figures": outcome.scores.values(),
            "per_class_recall": list(outcome.scores.per_class_recall),
            "train_loss": outcome.train_loss,
            "best_epoch": outcome.best_epoch,
            "best_accuracy_chosen_on_test": outcome.best_accuracy,
        }


def train_missing(
    root: Storage,
    training: ClassifierTraining,
    splits: Splits,
    generated: Callable[[], PackedImages],
    classifiers: Sequence[ClassifierRun],
    workers: int | Literal["all"],
    scaling: ScalingConfig,
    on_phase: OnPhase,
    on_share: Callable[[float], None] = lambda _share: None,
) -> tuple[dict[ClassifierRun, Outcome], int]:
    """Train the classifiers that are not in the store; return all outcomes and the number trained.

    Classifiers of one key are one: arms that come to the same images share it.

    Args:
        root: the store's top.
        generated: makes all generated images; called if a classifier that is trained now needs some.
        workers: more than 1, or `all` that the cluster has room for: so many classifiers at a time on Ray,
            each with one worker's resources. 1: one after the other, each by `scaling.workers` workers of
            Ray Train, or in this process.
        on_share: takes the share of those to train, in [0, 1], that are done.

    Raises:
        UsageProblem: the workers have no room.
        Problem: a training failed, or a worker was lost too often.
    """
    stored = root.list(CLASSIFIERS)
    outcomes: dict[str, Outcome] = {}
    new: dict[str, ClassifierRun] = {}
    for each in classifiers:
        if each.file in stored:
            try:
                outcomes[each.key] = unseal(root.read_text(each.file))
                continue
            except Altered:
                on_phase(f"{root.uri_of(each.file)} is damaged: training this classifier again")
        new[each.key] = each
    if not new:
        return {each: outcomes[each.key] for each in classifiers}, 0
    together = workers == 1 and scaling.workers > 1
    with ray_session() if workers != 1 or together else nullcontext():
        needed = any(each.added and each.added.origin == "generated" for each in new.values())
        images = generated() if needed else None
        todo = list(new.values())
        if workers != 1:
            results = train_on_ray(training, splits, images, todo, workers, scaling, on_phase)
        elif together:
            results = train_together(training, splits, images, todo, scaling, on_phase)
        else:
            results = train_locally(training, splits, images, todo, on_phase)
        with closing(results):
            for done, (classifier, outcome) in enumerate(results, 1):
                root.write_text(classifier.file, json.dumps(seal(outcome)))
                outcomes[classifier.key] = outcome
                on_share(done / len(new))
    return {each: outcomes[each.key] for each in classifiers}, len(new)


def train_locally(
    training: ClassifierTraining,
    splits: Splits,
    generated: PackedImages | None,
    classifiers: Sequence[ClassifierRun],
    on_phase: OnPhase,
) -> Results:
    """Train the classifiers one after the other, in this process."""
    for number, classifier in enumerate(classifiers, 1):
        name = f"classifier {number} of {len(classifiers)}"

        def on_epoch(line: str, name: str = name) -> None:
            on_phase(f"{name}: {line}")

        yield classifier, training.train(splits, generated, classifier, on_epoch)


def train_together(
    training: ClassifierTraining,
    splits: Splits,
    generated: PackedImages | None,
    classifiers: Sequence[ClassifierRun],
    scaling: ScalingConfig,
    on_phase: OnPhase,
) -> Results:
    """Train the classifiers one after the other, each on `scaling.workers` workers of Ray Train.

    It has to be called within a Ray session. A classifier whose worker is lost begins anew.

    Raises:
        UsageProblem: more workers than this machine, if there is no other, has room for.
        Problem: a training failed, or workers were lost too often.
    """
    import ray

    images = ray.put((_shareable(splits), generated))  # once for all workers of a host
    for number, classifier in enumerate(classifiers, 1):
        name = f"classifier {number} of {len(classifiers)} on {scaling.workers} workers"

        def on_epoch(line: str, name: str = name) -> None:
            on_phase(f"{name}: {line}")

        train = partial(_train_one, training, classifier)
        yield classifier, train_on_all_workers(train, images, scaling, on_epoch)


def _train_one(
    training: ClassifierTraining,
    classifier: ClassifierRun,
    images: tuple[Splits, PackedImages | None],
    on_phase: OnPhase,
) -> Outcome:
    return training.train(*images, classifier, on_phase)


def train_on_ray(
    training: ClassifierTraining,
    splits: Splits,
    generated: PackedImages | None,
    classifiers: Sequence[ClassifierRun],
    workers: int | Literal["all"],
    scaling: ScalingConfig,
    on_phase: OnPhase,
) -> Results:
    """Train up to `workers` classifiers at a time on Ray, each with one worker's resources.

    It has to be called within a Ray session.

    Raises:
        UsageProblem: not even one fits on the cluster.
        Problem: a training failed, or a worker was lost too often.
    """
    scaling = with_gpu_if_any(scaling.model_copy(update={"workers": 1}))
    room = cluster_capacity(scaling.cpus_per_worker, scaling.gpus_per_worker)
    if room < 1:
        raise no_room(scaling, room, setting="--workers")
    pool = ActorPool[ClassifierRun, Outcome](
        partial(training.train, _shareable(splits), generated),
        min(room if workers == "all" else workers, len(classifiers)),
        scaling,
        task="training a classifier",
        memory_advice="classification.batch_size",
    )

    def on_change(done: int, running: int) -> None:
        on_phase(f"{done} of {len(classifiers)} classifiers trained, {running} in training")

    yield from pool.map(classifiers, on_change)


def _shareable(splits: Splits) -> Splits:
    """Return the images as arrays that all actors of a host share.

    Ray keeps arrays in shared memory, read-only; a memory map is no plain array to pickle, and would be
    copied into each actor.
    """

    def plain(images: PackedImages) -> PackedImages:
        return replace(images, images=np.asarray(images.images))

    return replace(splits, train=plain(splits.train), reference=plain(splits.reference))
