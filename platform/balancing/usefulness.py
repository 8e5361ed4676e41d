"""How accurate classifiers become by a model's generated images: what a search ranks its points by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from ..config.experiment import Experiment
from .added_images import lacking_counts
from .arms import arms_of, measure
from .filling import ImageSource


@dataclass(frozen=True)
class Accuracy:
    """Of classifiers that are trained on real and generated images."""

    metrics: dict[str, float]
    """`accuracy/overall`, `accuracy/few`, ... over `balancing.seeds` seeds, in [0, 1], each with the ends of
    its interval: `accuracy/few_low`, `accuracy/few_high`."""
    warnings: tuple[str, ...]
    """What to know about them, a line each."""


def accuracy_at(
    source: ImageSource,
    experiment: Experiment,
    workers: int | Literal["all"] = 1,
    on_phase: Callable[[str], None] = lambda _line: None,
) -> Accuracy:
    """Fill classes up as an experiment says, and train and test its classifiers.

    What is in the store is not made again, so a point that differs in N_t, filter or weight only
    generates, scores and trains what is lacking.

    Args:
        source: whose images; its own experiment says how they are sampled.
        experiment: its `balancing` and `classification` count.
        workers: 1 works in this process, more on Ray.

    Raises:
        UsageProblem: N_t is below every class's count.
        Problem: a training failed.
    """
    train = source.splits.train.class_counts
    balancing = experiment.balancing
    counts = lacking_counts(train, balancing.target(train))
    at_point = source.experiment.model_copy(
        update={
            "balancing": balancing,
            "classification": experiment.classification,
            # may be called in a Ray task, which has room for one worker
            "scaling": source.experiment.scaling.model_copy(update={"workers": 1}),
        }
    )
    arm = arms_of(balancing.filter.is_set)[-1]
    measured = measure(
        replace(source, experiment=at_point), counts, [arm], balancing.seeds, workers, on_phase
    )
    metrics: dict[str, float] = {}
    for name, entry in measured.document["arms"][arm]["figures"].items():
        if name.startswith("accuracy/"):
            ends = {"": entry["value"], "_low": entry["low"], "_high": entry["high"]}
            metrics |= {f"{name}{end}": value for end, value in ends.items()}
    return Accuracy(metrics, tuple(measured.document["warnings"]))
