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

Measure = Callable[[Sample, Sample, "EvaluationConfig"], dict[str, Floats]]

MEASURES: dict[str, Measure] = {
    "kid": kid.measure,
    "fid": fid.measure,
    "inception_score": inception_score.measure,
    "precision_recall": precision_recall.measure,
    "prd": prd.measure,
    "agreement": agreement.measure,
}
"""By the name that `evaluation.measures` lists; `memorisation` is one more, with its own pass."""

SMALL_SAMPLES = ("kid", "agreement")
"""Measures of a single class however few its images: unbiased, or a plain proportion."""


SHARE = (0.0, 1.0)


@dataclass(frozen=True)
class Number:
    """One number of a report, and how it is shown."""

    title: str
    better: Literal["lower", "higher"]
    decimals: int
    interval: Literal["percentile", "recentred", "proportion"]
    bounds: tuple[float, float] = (0.0, float("inf"))
    """Of what can be; cuts a recentred interval."""

    def estimate(self, draws: Floats, n: int, confidence: float) -> Estimate | None:
        """The number with its interval; None where it is undefined.

        Args:
            n: images on the side that has fewer, or generated ones for a proportion of those.
        """
        if self.interval == "percentile":
            return percentile_interval(draws, confidence)
        # Where all images are inside or all outside, so are those of every resample.
        certain = self.bounds == SHARE and draws[0] in SHARE and (draws == draws[0]).all()
        if self.interval == "recentred" and not certain:
            return recentred_interval(draws, confidence, self.bounds)
        if draws[0] != draws[0]:
            return None
        return wilson_interval(round(draws[0] * n), n, confidence)


NUMBERS: dict[str, Number] = {
    "kid": Number("KID", "lower", 4, "percentile"),
    "kid_subsets": Number("KID, mean of subsets", "lower", 4, "percentile"),
    "fid": Number("FID", "lower", 2, "recentred"),
    "inception_score": Number("Inception Score", "higher", 2, "recentred", (1.0, float("inf"))),
    "precision": Number("Precision", "higher", 3, "recentred", SHARE),
    "recall": Number("Recall", "higher", 3, "recentred", SHARE),
    "f_8": Number("F_8", "higher", 3, "recentred", SHARE),
    "f_1_8": Number("F_1/8", "higher", 3, "recentred", SHARE),
    "agreement": Number("Label agreement", "higher", 3, "proportion", SHARE),
    "copies": Number("Near copies", "lower", 3, "proportion", SHARE),
}
"""In the order of tables. `copies` comes from memorisation.py."""
