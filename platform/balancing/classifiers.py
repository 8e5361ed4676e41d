"""Train the classifiers of `whipray classify`, in this process or on Ray actors."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...trainers.classification.config import ClassificationConfig
from ...trainers.classification.fit import train_and_test
from ...trainers.data import PackedImages, Splits
from ...trainers.engine import choose_device
from ..compute.actor_pool import ActorPool
from ..compute.capacity import cluster_capacity, no_room, with_gpu_if_any
from ..config.experiment import ScalingConfig
from ..storage.layout import classifier_file
from .summary import Arm

OnPhase = Callable[[str], None]
Added = Mapping[Arm, PackedImages]
"""The images that an arm is trained on besides the real ones; an arm without any has no entry."""
Outcome = dict[str, Any]
"""The test results of one classifier, as JSON types."""


@dataclass(frozen=True)
class ClassifierRun:
    """One classifier to train."""

    arm: Arm
    seed: int
    key: str
    """A hash of all that the classifier depends on."""

    @property
    def file(self) -> str:
        """Path of the outcome, from the store's top."""
        return classifier_file(self.key)


Results = Generator[tuple[ClassifierRun, Outcome], None, None]
"""Outcomes in the order in which they are ready; the generator has to be closed."""


@dataclass(frozen=True)
class ClassifierTraining:
    """Everything that the classifiers of one classification share, but for images."""

    groups: Mapping[str, Sequence[int]]
    config: ClassificationConfig
    cpus: int
    """Threads of a training on the CPU; another number may change the last bits of a result."""

    def train(
        self,
        splits: Splits,
        added: Added,
        classifier: ClassifierRun,
        on_phase: OnPhase = lambda _line: None,
    ) -> Outcome:
        """Train and test one classifier."""
        import torch

        device = choose_device()
        if device.type == "cpu":
            torch.set_num_threads(self.cpus)
        outcome = train_and_test(
            splits.train,
            splits.reference,
            self.groups,
            self.config,
            classifier.seed,
            device,
            added.get(classifier.arm),
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


def train_locally(
    training: ClassifierTraining,
    splits: Splits,
    added: Added,
    classifiers: Sequence[ClassifierRun],
    on_phase: OnPhase,
) -> Results:
    """Train the classifiers one after the other, in this process."""
    for number, classifier in enumerate(classifiers, 1):
        name = f"classifier {number} of {len(classifiers)}"

        def on_epoch(line: str, name: str = name) -> None:
            on_phase(f"{name}: {line}")

        yield classifier, training.train(splits, added, classifier, on_epoch)


def train_on_ray(
    training: ClassifierTraining,
    splits: Splits,
    added: Added,
    classifiers: Sequence[ClassifierRun],
    workers: int,
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
        partial(training.train, splits, added),
        min(workers, len(classifiers)),
        scaling,
        task="training a classifier",
        memory_advice="classification.batch_size",
    )

    def on_change(done: int, running: int) -> None:
        on_phase(f"{done} of {len(classifiers)} classifiers trained, {running} in training")

    yield from pool.map(classifiers, on_change)
