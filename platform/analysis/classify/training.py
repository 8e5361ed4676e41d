"""Training the classifiers of `whipray classify`: in this process, or as Ray tasks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ....trainers.classification import ClassificationConfig, train_and_test
from ....trainers.data import PackedImages, Splits
from ....trainers.engine import choose_device
from ...compute.actor_pool import ActorPool
from ...compute.capacity import cluster_capacity, no_room, with_gpu_if_any
from ...config.experiment import ScalingConfig
from .summary import Arm

Say = Callable[[str], None]
Added = Mapping[Arm, PackedImages]
"""What each arm is trained on beside the real images; without an entry, nothing."""
Outcome = dict[str, Any]
"""One classifier's figures, as JSON types."""


@dataclass(frozen=True)
class ClassifierRun:
    """One classifier to train."""

    arm: Arm
    seed: int
    key: str
    """A hash of all that it depends on."""

    @property
    def file(self) -> str:
        """Of its outcome, from the store's top."""
        return f"classifiers/{self.key}.json"


Results = Generator[tuple[ClassifierRun, Outcome], None, None]
"""What is trained, as it is ready; to be closed."""


@dataclass(frozen=True)
class ClassifierTraining:
    """What all jobs share."""

    groups: Mapping[str, Sequence[int]]
    config: ClassificationConfig
    cpus: int
    """Threads of a training on the CPU; another number may change the last bits."""

    def train(
        self,
        splits: Splits,
        added: Added,
        job: ClassifierRun,
        say: Say = lambda _line: None,
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
            job.seed,
            device,
            added.get(job.arm),
            say,
        )
        return {
            "seed": job.seed,
            "figures": outcome.scores.figures(),
            "per_class_recall": list(outcome.scores.per_class_recall),
            "train_loss": outcome.train_loss,
            "best_epoch": outcome.best_epoch,
            "best_accuracy_chosen_on_test": outcome.best_accuracy,
        }


def train_locally(
    task: ClassifierTraining, splits: Splits, added: Added, jobs: Sequence[ClassifierRun], say: Say
) -> Results:
    """One after the other, in this process."""
    for number, job in enumerate(jobs, 1):
        name = f"classifier {number} of {len(jobs)}"

        def told(line: str, name: str = name) -> None:
            say(f"{name}: {line}")

        yield job, task.train(splits, added, job, told)


def train_on_ray(
    task: ClassifierTraining,
    splits: Splits,
    added: Added,
    jobs: Sequence[ClassifierRun],
    workers: int,
    scaling: ScalingConfig,
    say: Say,
) -> Results:
    """Train at most `workers` at once, each with one worker's CPUs and GPUs; in a Ray session.

    Raises:
        UsageProblem: the cluster has no room for a single one.
        Problem: what a training raised, or a worker that was lost too often.
    """
    scaling = with_gpu_if_any(scaling.model_copy(update={"workers": 1}))
    room = cluster_capacity(scaling.cpus_per_worker, scaling.gpus_per_worker)
    if room < 1:
        raise no_room(scaling, room, setting="--workers")
    pool = ActorPool[ClassifierRun, Outcome](
        partial(task.train, splits, added),
        min(workers, len(jobs)),
        scaling,
        task="training a classifier",
        memory_advice="classification.batch_size",
    )

    def on_change(done: int, running: int) -> None:
        say(f"{done} of {len(jobs)} classifiers trained, {running} at work")

    yield from pool.map(jobs, on_change)
