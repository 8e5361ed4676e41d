"""What a reader must know before believing a report: one list for the page, the terminal and MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...trainers.data.long_tail import MOST_UNEVEN
from ...trainers.data.report import counted, listed, shown
from .arrays import Floats
from .bootstrap import Sample, wilson_interval
from .config import EvaluationConfig
from .extractors.base import Value
from .metrics import METRICS, OUTPUTS
from .metrics.base import Metric
from .report import ClassRow, Row

FEW_REAL = 10
"""Real images of a class below which its values say little."""
TAIL_IMAGES, TAIL_SHARE, TAIL_INDEX = 200, 0.05, 4.0
"""From so many images on, a tail index of this share of the images below 4 is heavy: the features'
fourth moments, and with them the spread of FID, would be infinite."""
TAIL_ROWS = 5000
"""Images that are looked at for that."""


def find_warnings(
    rows: Sequence[Row],
    per_class: Sequence[ClassRow],
    sides: Sequence[Sample],
    metrics: Sequence[Metric[Any]],
    config: EvaluationConfig,
    provenance: Mapping[str, Value],
) -> tuple[str, ...]:
    """Return a line for everything that makes values of a report mean less than they seem to.

    Args:
        rows: overall and the groups.
        per_class: the classes.
        sides: generated and real images.
        metrics: those that were computed.
        config: their settings.
        provenance: has what the extractor says about itself.
    """
    lines = [
        at_chance(provenance, len(per_class)),
        at_chance(provenance, len(per_class), "agreement"),
        _no_agreement(metrics, config),
        _no_logits(metrics, config, provenance),
        _borrowed(rows, per_class, metrics),
        _few_real(per_class),
        _biased(rows[0], sides[0], metrics),
        *(_undefined(metric, rows, sides[1], config) for metric in metrics),
        *(
            _heavy_tails(side, name)
            for side, name in zip(sides, ("generated", "real"), strict=True)
        ),
    ]
    return tuple(line for line in lines if line is not None)


def at_chance(
    provenance: Mapping[str, Value], classes: int, network: str = "extractor"
) -> str | None:
    """Return a warning where a network is not clearly better than chance on held-out images.

    Args:
        network: `extractor`, or `agreement` for the classifier beside it.
    """
    accuracy = provenance.get(f"{network}_held_out_accuracy")
    images = provenance.get(f"{network}_images_held_out")
    if not isinstance(accuracy, int | float) or not isinstance(images, int) or classes < 2:
        return None
    interval = wilson_interval(round(accuracy * images), images, 0.95)
    if interval is not None and interval.low > 1 / classes:
        return None
    name, values = {
        "extractor": ("feature network", "these values"),
        "agreement": ("network of label agreement", "label agreement"),
    }[network]
    return (
        f"the {name} is right on {accuracy:.1%} of {images} held-out images, and chance is "
        f"{1 / classes:.1%}: {values} cannot distinguish models; give more real images"
    )


def _no_agreement(metrics: Sequence[Metric[Any]], config: EvaluationConfig) -> str | None:
    """Return a warning where no classifier could be trained."""
    missing = [name for name in config.metrics if METRICS[name].needs_own_classes]
    if not missing or any(metric.needs_own_classes for metric in metrics):
        return None
    return (
        "no label agreement: there is no classifier of these classes; give at least 2 real images of "
        "each class, of 8 x 8 pixels or more"
    )


def _no_logits(
    metrics: Sequence[Metric[Any]], config: EvaluationConfig, provenance: Mapping[str, Value]
) -> str | None:
    """Return a warning where the feature network has no classes, which a metric needs."""
    computed = {metric.name for metric in metrics}
    titles = [
        output.title
        for name in config.metrics
        if METRICS[name].needs_logits and name not in computed
        for output in METRICS[name].outputs.values()
    ]
    if not titles:
        return None
    return (
        f"no {' or '.join(titles)}: {provenance['extractor']} knows no classes; use another "
        "evaluation.features.extractor for it"
    )


def _borrowed(
    rows: Sequence[Row], per_class: Sequence[ClassRow], metrics: Sequence[Metric[Any]]
) -> str | None:
    """Return a warning where real images of a class are the ones that it was trained on."""
    names = [shown(row.name) for row in per_class if row.borrowed]
    if not names:
        return None
    present = {name for of in (rows, per_class) for row in of for name in row.values}
    titles = [
        output.title
        for metric in metrics
        for name, output in metric.outputs.items()
        if name in present and output.ranks and not metric.generated_alone
    ]
    return (
        f"{len(names)} of {counted(len(per_class), 'classes')} had too few images to hold some out and "
        f"{'is' if len(names) == 1 else 'are'} compared with training images ({listed(names)}): copies of these "
        f"look perfect in {', '.join(titles) or 'every comparison'}, and in the values of their groups; look at "
        "near copies, or give more images of these classes"
    )


def _few_real(per_class: Sequence[ClassRow]) -> str | None:
    few = [row for row in per_class if row.n_real < FEW_REAL]
    if not few:
        return None
    least = min(row.n_real for row in few)
    return (
        f"{len(few)} of {len(per_class)} classes have fewer than {FEW_REAL} real images ({least} the "
        "smallest): their values, and those of their groups, say little; give more real images"
    )


def _biased(overall: Row, side: Sample, metrics: Sequence[Metric[Any]]) -> str | None:
    """Return a warning where FID's covariances are of more features than there are images.

    Of CIFAR-10 against itself it is 234, 375 and 687 with 800, 400 and 100 images (`imagenet`).
    """
    images, features = min(overall.n_generated, overall.n_real), side.features.shape[1]
    if images >= features or not any("fid" in metric.outputs for metric in metrics):
        return None
    return f"FID is mostly bias with {images} images and {features} features: look at KID; give more images"


def _undefined(
    metric: Metric[Any], rows: Sequence[Row], real: Sample, config: EvaluationConfig
) -> str | None:
    """Return a warning for the groups that have too few images for a metric."""
    settings = metric.settings_in(config)
    needed = {row.name: metric.fewest(settings, len(row.classes)) for row in rows}
    smaller = {row.name: _smaller(row, metric, real) for row in rows}
    few = [row for row in rows if smaller[row.name] < needed[row.name]]
    if not few:
        return None
    titles = " or ".join(output.title for output in metric.outputs.values())
    evenly = " with as many of each class"
    groups = ", ".join(
        f"{row.name} ({smaller[row.name]} images{evenly if smaller[row.name] < min(row.n_generated, row.n_real) else ''}, not "
        f"{needed[row.name]})"
        for row in few
    )
    side = "generated" if metric.generated_alone else "generated and real"
    return f"no {titles} of {groups}: give more {side} images"


def _smaller(row: Row, metric: Metric[Any], real: Sample) -> int:
    """Return how many images the metric has on the side that has fewer."""
    if metric.generated_alone:
        return row.n_generated
    counts = np.bincount(real.labels)[list(row.classes)]
    cut = metric.cuts_real and counts.max() > MOST_UNEVEN * counts.min()
    return min(row.n_generated, int(counts.min()) * len(counts) if cut else row.n_real)


def _heavy_tails(side: Sample, name: str) -> str | None:
    """Return a warning where the features' tail index is below 4 (Hill, Annals of Statistics 1975)."""
    if len(side) < TAIL_IMAGES:
        return None
    every = -(-len(side) // TAIL_ROWS)
    some = side.at(np.arange(0, len(side), every))
    distances = np.sort(_from_class_means(some))[::-1]
    count = max(TAIL_SHARE * len(distances), 10)
    least = distances[int(count)]
    if least <= 0 or float(np.log(distances[: int(count)] / least).mean()) <= 1 / TAIL_INDEX:
        return None
    outputs = " and ".join(OUTPUTS[output].title for output in ("fid", "kid"))
    return (
        f"the features of the {name} images have heavy tails: intervals of {outputs} are too narrow; "
        "look at the images farthest from their class"
    )


def _from_class_means(sample: Sample) -> Floats:
    """Return the distance of each image to its class's mean, (n,); classes of one image are left out."""
    parts = []
    for one in sample.by_class():
        if len(one) > 1:
            x = one.features.astype(np.float64)
            parts.append(np.linalg.norm(x - x.mean(0), axis=1))
    return np.concatenate(parts) if parts else np.zeros(len(sample))
