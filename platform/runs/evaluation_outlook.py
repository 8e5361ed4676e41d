"""What an evaluation of many classes will take and will lack, before any of it is done."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...trainers.data.groups import group_classes
from ...trainers.data.long_tail import MOST_UNEVEN
from ...trainers.previews import TRAINING_PASSES
from ..config.experiment import Experiment
from ..evaluation.extractors import choose
from ..evaluation.extractors.config import ClassifierConfig
from ..evaluation.metrics import METRICS, prd
from ..foundation.durations import minutes
from .work import passes_of_image

MANY_CLASSES = 100
"""From so many classes on there is something to say: with fewer, metrics take seconds."""
FLOP_PER_SECOND = 4e10
"""Of one CPU core in float64: what KID reached on an AMD EPYC with 4,000 images of 2048 features."""
DIMENSIONS = {"classifier": 64, "imagenet": 1280, "dinov2": 1024}
"""Features of an extractor; those of others are 2048."""


def outlook(
    experiment: Experiment, train_counts: Sequence[int], reference_counts: Sequence[int]
) -> list[str]:
    """Return lines about work, undefined metrics and features; none below `MANY_CLASSES`.

    Args:
        train_counts: training images of each class.
        reference_counts: real images that each class is compared with.
    """
    classes = len(train_counts)
    if classes < MANY_CLASSES:
        return []
    return [
        _work(experiment, train_counts, sum(reference_counts)),
        *_features(experiment, classes, min(reference_counts)),
        *_undefined(experiment, train_counts, np.asarray(reference_counts)),
    ]


def _work(experiment: Experiment, train_counts: Sequence[int], real: int) -> str:
    """Return the line about how long each sampling setting takes."""
    images = experiment.evaluation.images_per_class * len(train_counts)
    passes = images * passes_of_image(experiment, train_counts)
    line = (
        f"evaluating a setting generates {images:,} images, which takes as long as training "
        f"{passes // TRAINING_PASSES:,.0f} images"
    )
    seconds = metric_seconds(experiment, len(train_counts), real)
    if seconds < 60:
        return line
    return f"{line}, and computes metrics for about {minutes(seconds)} of one CPU core, on a GPU for much less"


def metric_seconds(experiment: Experiment, classes: int, real: int) -> float:
    """Return about how long the metrics of one setting take on one CPU core.

    Counted are products of features: of all pairs for KID and for precision and recall, of covariances and
    their roots for FID, of images and centres for PRD with many clusters, whose float32 counts half; once for
    all classes and, but for PRD, once in all for the groups.
    """
    config = experiment.evaluation
    if not config.uses_features:
        return 0.0
    extractor = choose(config.features, experiment.data.image_shape).extractor
    d, n = DIMENSIONS.get(extractor, 2048), config.images_per_class * classes
    pairs = (n * n + real * real) / 2 + n * real
    settings = METRICS["prd"].settings_in(config)
    clusters, side = settings.clusters_per_class * classes, min(n, real)
    by_rounds = clusters > prd.MOST_BY_BATCHES and side >= prd.PER_CLUSTER * clusters
    flop = {
        "kid": 1.5 * 2 * d * pairs,
        "precision_recall": 1.5 * 2 * d * pairs,
        "fid": 2 * 2 * d * d * (n + real) + 4 * 30 * d**3,
        "prd": settings.runs * prd.ROUNDS * 2 * side * clusters * d if by_rounds else 0.0,
    }
    return sum(flop.get(name, 0.0) for name in config.metrics) / FLOP_PER_SECOND


def _features(experiment: Experiment, classes: int, fewest: int) -> list[str]:
    """Return a line where a network has to learn many classes from the real images."""
    config = experiment.evaluation
    if not config.uses_features:
        return []
    network = f"a classifier of {classes:,} classes, from {fewest} real images of the smallest"
    slow = "is trained first, without a GPU for up to an hour"
    if isinstance(choose(config.features, experiment.data.image_shape), ClassifierConfig):
        fix = "set evaluation.features.extractor=inception"
        return [f"features come from {network}: it {slow}, and tells models apart badly; {fix}"]
    if any(METRICS[name].needs_own_classes for name in config.metrics):
        fix = "leave agreement out of evaluation.metrics if it is not needed"
        return [f"label agreement comes from {network}, which {slow}; {fix}"]
    return []


def _undefined(
    experiment: Experiment,
    train_counts: Sequence[int],
    real: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> list[str]:
    """Return a line for each metric that some rows of the report will lack."""
    config, lines = experiment.evaluation, []
    rows = {"overall": range(len(train_counts)), **group_classes(train_counts, config.groups)}
    for metric in (METRICS[name] for name in config.metrics):
        if metric.from_classifiers:
            continue
        lacking = []
        for row, ids in rows.items():
            counts = real[list(ids)]
            is_cut = metric.cuts_real and counts.max() > MOST_UNEVEN * counts.min()
            images = config.images_per_class * len(ids)
            if not metric.generated_alone:
                images = min(images, int(counts.min() * len(ids) if is_cut else counts.sum()))
            needed = metric.fewest(metric.settings_in(config), len(ids))
            if images < needed:
                lacking.append(f"{row} ({images:,} images, not {needed:,})")
        if lacking:
            titles = " or ".join(output.title for output in metric.outputs.values())
            least = -(
                -metric.fewest(metric.settings_in(config), len(train_counts)) // len(train_counts)
            )
            lines.append(
                f"there will be no {titles} of {', '.join(lacking)}: they need {least} images of each class, "
                f"generated{'' if metric.generated_alone else ' and real'}"
            )
    return lines
