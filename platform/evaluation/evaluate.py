"""From features to a report: every metric, overall, by group and by class."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...trainers.data.groups import group_classes
from ...trainers.data.long_tail import MOST_UNEVEN
from ...trainers.errors import DataProblem, UsageProblem
from .arrays import Floats, Ints
from .bootstrap import Estimate, Sample, resample
from .config import EvaluationConfig
from .extractors.base import Extracted, ExtractorInfo, Value
from .metrics import METRIC_OF, METRICS, OUTPUTS
from .metrics.base import Metric
from .report import ClassRow, Report, Row
from .warnings import find_warnings

OnMetric = Callable[[str, int, int], None]
"""Takes a metric and its row in words, how many values are done, and of how many."""


@dataclass(frozen=True)
class Classes:
    """The classes of the data set, by class id."""

    names: tuple[str, ...]
    train_counts: Sequence[int]
    """Training images; they make the groups."""
    borrowed: tuple[int, ...] = ()
    """Classes whose real images are their training images, by id."""


def evaluate(
    generated: Extracted,
    generated_labels: Ints,
    real: Extracted,
    real_labels: Ints,
    classes: Classes,
    info: ExtractorInfo,
    config: EvaluationConfig,
    about: Mapping[str, Value],
    copy_ratios: Floats | None = None,
    copied_labels: Ints | None = None,
    on_metric: OnMetric = lambda _words, _done, _total: None,
    given: Mapping[str, Estimate] | None = None,
) -> Report:
    """Compare generated with real images by their features.

    Args:
        generated: of N images, which were asked to be `generated_labels` (N,).
        real: of M images of `real_labels` (M,); every class has the same weight, however many it has.
        info: the extractor that made the features of both.
        about: how the images were made and what the real ones are, for the provenance.
        copy_ratios: (N,) distance of each generated image to its nearest training image, see
            `metrics/memorisation.py`; None where no metric needs it.
        copied_labels: (N,) the class of that training image.
        on_metric: takes what is computed next, and how many values of how many are done.
        given: values of metrics that are not computed from features: `accuracy/overall`, `accuracy/few`, ...

    Raises:
        DataProblem: a class without generated or real images, a label outside the classes, or
            features of another kind than the other side's.
        UsageProblem: a key of `about` that the report sets itself.
    """
    _check(generated, generated_labels, real, real_labels, classes)
    resamples, seed = config.bootstrap_resamples, config.seed
    fakes = resample(
        generated.features, generated.logits, generated_labels, resamples, seed, "generated"
    )
    reals = resample(real.features, real.logits, real_labels, resamples, seed, "real")
    own = generated.logits if generated.own_logits is None else generated.own_logits
    network = info.label_network
    has_own = network is not None and network.class_names == classes.names
    fakes = replace(
        fakes,
        copy_ratios=copy_ratios,
        copied_labels=copied_labels,
        own_logits=own if has_own else None,
    )
    images = _Images(fakes, reals.with_classes_alike(), config)
    sides = (generated_labels, real_labels)
    fewest = np.minimum(*(np.bincount(side, minlength=len(classes.names)) for side in sides))
    metrics = [
        metric
        for metric in METRICS.values()
        if metric.name in config.metrics
        and not metric.from_classifiers
        and (has_own or not metric.needs_own_classes)
        and (generated.logits.shape[1] or not metric.needs_logits)
    ]
    groups = group_classes(classes.train_counts, config.groups)
    for_few = [metric for metric in metrics if metric.for_few_images]
    of_class = [metrics if count >= config.min_real else for_few for count in fewest]
    count = _Count(on_metric, (1 + len(groups)) * len(metrics) + sum(map(len, of_class)))
    rows: list[Row] = []
    all_replicates: dict[str, Floats] = {}
    for name, ids in {"overall": list(range(len(classes.names))), **groups}.items():
        row, replicates = images.row(name, ids, metrics, count)
        known = {n: given[f"{n}/{name}"] for n in OUTPUTS if given and f"{n}/{name}" in given}
        row = replace(row, values={**row.values, **known})
        rows.append(row)
        all_replicates |= {f"{output}/{name}": values for output, values in replicates.items()}
    per_class = [
        images.class_row(c, group, classes, of_class[c], count)
        for group, ids in groups.items()
        for c in ids
    ]
    provenance = _provenance(info, config, images, about)
    warnings = find_warnings(
        rows, per_class, (images.generated, images.real), metrics, config, provenance
    )
    return Report(
        tuple(rows), tuple(per_class), provenance, warnings, all_replicates, count.seconds
    )


class _Count:
    """Counts the values that are computed, and their seconds by metric."""

    def __init__(self, on_metric: OnMetric, total: int) -> None:
        self.on_metric, self.total, self.done = on_metric, total, 0
        self.seconds: dict[str, float] = {}

    @contextmanager
    def computing(self, metric: str, row: str) -> Iterator[None]:
        self.on_metric(f"{metric} of {row}", self.done, self.total)
        begin = time.perf_counter()
        yield
        self.seconds[metric] = self.seconds.get(metric, 0.0) + time.perf_counter() - begin
        self.done += 1


@dataclass(frozen=True)
class _Images:
    """Both sides of an evaluation, resampled."""

    generated: Sample
    real: Sample
    config: EvaluationConfig

    @property
    def num_classes(self) -> int:
        """Classes of the whole."""
        return len(np.unique(self.generated.labels))

    def row(
        self, name: str, classes: Sequence[int], metrics: Sequence[Metric[Any]], count: _Count
    ) -> tuple[Row, dict[str, Floats]]:
        """Return the row of these classes, and the replicates (1 + B,) of its values."""
        generated, real = self.generated.of(classes), self.real.of(classes)
        replicates: dict[str, Floats] = {}
        for metric in metrics:
            settings = metric.settings_in(self.config)
            with count.computing(metric.name, name):
                replicates |= metric.compute(generated, real, settings, self.config.seed)
        n, m = len(generated), len(real)
        values = _estimates(replicates, n, int(real.effective), self.config.confidence)
        return Row(name, tuple(classes), n, m, values), replicates

    def class_row(
        self,
        c: int,
        group: str,
        classes: Classes,
        metrics: Sequence[Metric[Any]],
        count: _Count,
    ) -> ClassRow:
        """Return the row of one class, with the metrics that its number of images allows."""
        row, _ = self.row(classes.names[c], [c], metrics, count)
        return ClassRow(
            class_id=c,
            name=classes.names[c],
            group=group,
            train_count=int(classes.train_counts[c]),
            n_generated=row.n_generated,
            n_real=row.n_real,
            values=row.values,
            borrowed=c in classes.borrowed,
        )


def check_groups(config: EvaluationConfig, train_counts: Sequence[int]) -> None:
    """Check that the groups fit the classes, and that there is a group to rank by.

    Raises:
        UsageProblem: naming the class, the group that is empty, or how many images the value that
            is ranked by needs.
    """
    groups = group_classes(train_counts, config.groups)
    group = config.goal.group
    if group not in ("overall", *groups):
        raise UsageProblem(
            f"evaluation.rank_by={config.rank_by}: no class is {group} ({config.groups})",
            "rank by another group, or change evaluation.groups",
        )
    metric = METRIC_OF[config.goal.metric]
    classes = len(groups.get(group, train_counts))
    needed = metric.fewest(metric.settings_in(config), classes)
    if config.images_per_class * classes < needed:
        raise UsageProblem(
            f"evaluation.rank_by={config.rank_by} needs {needed} generated images, and "
            f"evaluation.images_per_class={config.images_per_class} gives "
            f"{config.images_per_class * classes}",
            f"set evaluation.images_per_class={-(-needed // classes)} or more, or rank by another value",
        )


def _estimates(
    replicates: Mapping[str, Floats], n: int, m: int, confidence: float
) -> dict[str, Estimate]:
    """Return the values that are defined, in the order of tables.

    Args:
        n: generated images.
        m: real images, those of equal weight that vary as much.
    """
    estimates = {
        name: output.estimate(
            replicates[name], n if output.interval == "proportion" else min(n, m), confidence
        )
        for name, output in OUTPUTS.items()
        if name in replicates
    }
    return {name: estimate for name, estimate in estimates.items() if estimate is not None}


def _provenance(
    info: ExtractorInfo, config: EvaluationConfig, images: _Images, about: Mapping[str, Value]
) -> dict[str, Value]:
    own: dict[str, Value] = {
        "extractor": info.name,
        "extractor_hash": info.hash,
        "extractor_features": info.dimensions,
        "extractor_preprocessing": info.preprocessing,
        **{f"extractor_{key}": value for key, value in info.facts.items()},
        **_label_network(info),
        "n_generated": len(images.generated),
        "n_real": len(images.real),
        "reference_weights": _describe_weights(images.real),
        "groups": str(config.groups),
        "min_real": config.min_real,
    }
    for metric in METRICS.values():
        own |= metric.provenance(metric.settings_in(config), images.num_classes)
    own |= {
        "bootstrap_resamples": config.bootstrap_resamples,
        "bootstrap_seed": config.seed,
        "confidence": config.confidence,
    }
    if taken := sorted(own.keys() & about.keys()):
        raise UsageProblem(f"about has the key {taken[0]}", "the report sets that one itself")
    return {**own, **about}


def _label_network(info: ExtractorInfo) -> dict[str, Value]:
    """Return what is known of the classifier that label agreement comes from."""
    network = info.label_network
    if network is None:
        return {}
    accuracy, images = (network.facts.get(k) for k in ("held_out_accuracy", "images_held_out"))
    known = f", right on {accuracy:.1%} of {images} held-out images" if accuracy is not None else ""
    about: dict[str, Value] = {"label_network": f"{network.name} ({network.hash}){known}"}
    if info.own is not None:
        about |= {"agreement_network": info.own.name, "agreement_hash": info.own.hash}
        about |= {f"agreement_{key}": value for key, value in info.own.facts.items()}
    return about


def _describe_weights(real: Sample) -> str:
    """Return how real images stand for the same mixture of classes as the generated ones."""
    counts = np.unique(real.labels, return_counts=True)[1]
    if counts.min() == counts.max():
        return "none: as many images of every class"
    cut = (
        ""
        if counts.max() <= MOST_UNEVEN * counts.min()
        else f"; cut to {counts.min()} of a class for "
    )
    titles = [
        output.title for m in METRICS.values() if m.cuts_real for output in m.outputs.values()
    ]
    return f"every class alike, as {real.effective:.4g} of equal weight" + (
        cut and cut + ", ".join(titles)
    )


def _check(
    generated: Extracted,
    generated_labels: Ints,
    real: Extracted,
    real_labels: Ints,
    classes: Classes,
) -> None:
    names = classes.names
    if len(classes.train_counts) != len(names):
        raise DataProblem(
            f"{len(classes.train_counts)} training counts for {len(names)} classes",
            "give the training set's count of every class, by class id",
        )
    if generated.features.shape[1:] != real.features.shape[1:]:
        raise DataProblem(
            f"generated features are {generated.features.shape[1:]}, real ones "
            f"{real.features.shape[1:]}",
            "make both with the same extractor",
        )
    sides = (("generated", generated, generated_labels), ("real", real, real_labels))
    for kind, side, labels in sides:
        if labels.shape != side.features.shape[:1] or labels.dtype.kind != "i":
            raise DataProblem(
                f"{len(side.features)} {kind} images, class ids {labels.dtype} {labels.shape}",
                "give one integer class id for each image",
            )
        if not (np.isfinite(side.features).all() and np.isfinite(side.logits).all()):
            raise DataProblem(
                f"features or logits of {kind} images are not finite",
                "check the images and the extractor; features that are kept in the store are made "
                "again when they are deleted",
            )
        if outside := sorted({int(c) for c in labels} - set(range(len(names)))):
            raise DataProblem(
                f"class id {outside[0]} of {kind} images is outside the classes 0 to "
                f"{len(names) - 1}",
                "evaluate the classes that the model was trained on, in their order",
            )
        counts = np.bincount(labels, minlength=len(names))
        if not counts.all():
            c = int(counts.argmin())
            raise DataProblem(
                f"no {kind} images of class {c} ({names[c]})",
                "a report compares every class: give at least 2 images of each",
            )
