"""Training the classifiers of `whipray classify`: in this process, or as Ray tasks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....trainers.classification import ClassificationConfig, train_and_test
from ....trainers.data import PackedImages, Splits
from ....trainers.engine import choose_device
from ....trainers.errors import Problem, UsageProblem
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
    """At most `workers` at once, each with one worker's CPUs and GPUs; inside `ray_session()`.

    Raises:
        UsageProblem: the cluster has no room for a single one.
        Problem: what a training raised, or a worker that was lost too often.
    """
    import ray

    def run(splits: Splits, added: Added, job: ClassifierRun) -> Outcome:
        return task.train(splits, added, job)

    cpus, has = scaling.cpus_per_worker, ray.cluster_resources()
    gpus = scaling.gpus_per_worker or float("GPU" in has)  # one, where there are any
    if has.get("CPU", 0) < cpus or has.get("GPU", 0) < gpus:
        raise UsageProblem(
            f"a classifier takes {cpus} CPUs and {gpus:g} GPUs: the cluster has no room for one",
            "lower scaling.cpus_per_worker or scaling.gpus_per_worker",
        )
    train = ray.remote(run).options(num_cpus=cpus, num_gpus=gpus, max_retries=scaling.max_failures)
    images = ray.put(splits), ray.put(added)
    waiting, running = list(reversed(jobs)), dict[Any, ClassifierRun]()
    while waiting or running:
        while waiting and len(running) < workers:
            job = waiting.pop()
            running[train.remote(*images, job)] = job
        done = len(jobs) - len(waiting) - len(running)
        say(f"{done} of {len(jobs)} classifiers trained, {len(running)} at work")
        (ready,), _ = ray.wait(list(running), num_returns=1)
        try:
            outcome = ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise Problem(
                f"a worker was lost {scaling.max_failures + 1} times while training a classifier",
                "the same command goes on where it was; lower classification.batch_size if it "
                "ran out of memory",
            ) from error
        yield running.pop(ready), outcome
