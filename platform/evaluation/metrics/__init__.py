"""Metrics: one file each, one contract (`base.py`).

A new metric is a file with a `METRIC`, and a line in `METRICS`.
"""

from __future__ import annotations

from typing import Any

from . import (
    agreement,
    classification,
    fid,
    inception_score,
    kid,
    memorisation,
    prd,
    precision_recall,
)
from .base import Metric, MetricOutput

METRICS: dict[str, Metric[Any]] = {
    metric.name: metric
    for metric in (
        kid.METRIC,
        fid.METRIC,
        inception_score.METRIC,
        precision_recall.METRIC,
        prd.METRIC,
        agreement.METRIC,
        memorisation.METRIC,
        classification.METRIC,
    )
}
"""By name, in the order of tables."""

OF_IMAGES = tuple(name for name, metric in METRICS.items() if not metric.from_classifiers)
"""Those that are computed from generated images alone, without training classifiers on them."""

OUTPUTS: dict[str, MetricOutput] = {
    name: output for metric in METRICS.values() for name, output in metric.outputs.items()
}
"""All values that metrics give, by name, in the order of tables."""

METRIC_OF: dict[str, Metric[Any]] = {
    name: metric for metric in METRICS.values() for name in metric.outputs
}
"""The metric that gives a value."""
