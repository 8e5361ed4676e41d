"""Accuracy of classifiers that are trained on real and generated images, on real ones; higher is better.

It is not computed from features: who evaluates trains the classifiers (`platform/balancing/usefulness.py`)
and gives a report their accuracy, with intervals. The classification accuracy score of Ravuri & Vinyals
(NeurIPS 2019), with the real images besides the generated ones, as CBDM and DiffuLT have it.
"""

from __future__ import annotations

from ..arrays import Floats
from ..bootstrap import Sample
from .base import SHARE, Metric, MetricOutput, NoSettings, Note


def compute(
    _generated: Sample, _real: Sample, _settings: NoSettings, _seed: int
) -> dict[str, Floats]:
    """Return nothing: `accuracy` is given, without replicates."""
    return {}


METRIC = Metric(
    name="classification",
    outputs={
        "accuracy": MetricOutput(
            "Accuracy",
            "higher",
            3,
            "given",
            SHARE,
            Note(
                "Accuracy",
                "of classifiers on the real images, every class alike; trained on the training images and on "
                "generated ones that fill classes up ({balancing}; {classifier}). Intervals are "
                "{accuracy_interval}; differences have none, for classifiers are not resampled images.",
            ),
        )
    },
    compute=compute,
    settings=NoSettings,
    from_classifiers=True,
    fewest=lambda _settings, _classes: 1,
)
