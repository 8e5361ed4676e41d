"""What can be measured: one file a measure, one contract, and the numbers that they give.

    measure(generated, real, config) -> {number: draws}    # draws (1 + B,) float64

Draw 0 is the estimate, NaN where there are too few images for one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..bootstrap import (
    Estimate,
    Floats,
    Sample,
    percentile_interval,
    recentred_interval,
    wilson_interval,
)
from . import agreement, fid, inception_score, kid, prd, precision_recall

if TYPE_CHECKING:
    from ..config import EvaluationConfig

Compute = Callable[[Sample, Sample, "EvaluationConfig"], dict[str, Floats]]

METRICS: dict[str, Compute] = {
    "kid": kid.compute,
    "fid": fid.compute,
    "inception_score": inception_score.compute,
    "precision_recall": precision_recall.compute,
    "prd": prd.compute,
    "agreement": agreement.compute,
}
"""By the name that `evaluation.metrics` lists; `memorisation` is one more, with its own pass."""

SMALL_SAMPLES = ("kid", "agreement")
"""Measures of a single class however few its images: unbiased, or a plain proportion."""


SHARE = (0.0, 1.0)


@dataclass(frozen=True)
class MetricOutput:
    """One number of a report, and how it is shown."""

    title: str
    better: Literal["lower", "higher"]
    decimals: int
    interval: Literal["percentile", "recentred", "proportion"]
    bounds: tuple[float, float] = (0.0, float("inf"))
    """Of what can be; cuts a recentred interval."""

    def estimate(self, replicates: Floats, n: int, confidence: float) -> Estimate | None:
        """The number with its interval; None where it is undefined.

        Args:
            n: images on the side that has fewer, or generated ones for a proportion of those.
        """
        if self.interval == "percentile":
            return percentile_interval(replicates, confidence)
        # Where all images are inside or all outside, so are those of every resample.
        certain = (
            self.bounds == SHARE and replicates[0] in SHARE and (replicates == replicates[0]).all()
        )
        if self.interval == "recentred" and not certain:
            return recentred_interval(replicates, confidence, self.bounds)
        if replicates[0] != replicates[0]:
            return None
        return wilson_interval(round(replicates[0] * n), n, confidence)


OUTPUTS: dict[str, MetricOutput] = {
    "kid": MetricOutput("KID", "lower", 4, "percentile"),
    "kid_subsets": MetricOutput("KID, mean of subsets", "lower", 4, "percentile"),
    "fid": MetricOutput("FID", "lower", 2, "recentred"),
    "inception_score": MetricOutput(
        "Inception Score", "higher", 2, "recentred", (1.0, float("inf"))
    ),
    "precision": MetricOutput("Precision", "higher", 3, "recentred", SHARE),
    "recall": MetricOutput("Recall", "higher", 3, "recentred", SHARE),
    "f_8": MetricOutput("F_8", "higher", 3, "recentred", SHARE),
    "f_1_8": MetricOutput("F_1/8", "higher", 3, "recentred", SHARE),
    "agreement": MetricOutput("Label agreement", "higher", 3, "proportion", SHARE),
    "copies": MetricOutput("Near copies", "lower", 3, "proportion", SHARE),
}
"""In the order of tables. `copies` comes from memorisation.py."""
