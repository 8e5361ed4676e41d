"""The contract of a metric: what its file says about it, and how its values are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from ....trainers.config import Config
from ..arrays import Floats
from ..bootstrap import (
    Estimate,
    Sample,
    percentile_interval,
    recentred_interval,
    wilson_interval,
)
from ..extractors.base import Value

Better = Literal["lower", "higher"]
Settings = TypeVar("Settings", bound=Config)

SHARE = (0.0, 1.0)
ROUNDING = 1e-6
"""Weights of resamples are float32: replicates that differ by less do not differ."""


@dataclass(frozen=True)
class Note:
    """A line about a metric in the method section of a page.

    Args:
        text: keys of the provenance in braces are replaced by their values.
    """

    heading: str
    text: str


@dataclass(frozen=True)
class MetricOutput:
    """One of the values that a metric gives, and how it is shown."""

    title: str
    better: Better
    decimals: int
    interval: Literal["percentile", "recentred", "proportion", "given"]
    """given: the value comes with its interval, and has no replicates."""
    bounds: tuple[float, float] = (0.0, float("inf"))
    """Least and greatest possible value; a recentred interval is cut to them."""
    note: Note | None = None
    ranks: bool = True
    """Whether models can be ordered by it (`evaluation.rank_by`)."""

    def estimate(self, replicates: Floats, n: int, confidence: float) -> Estimate | None:
        """Return the value with its interval; None where it is undefined.

        Args:
            replicates: (1 + B,); replicate 0 is the value on the images as they are.
            n: images on the side that has fewer, or generated ones for a proportion of those.
            confidence: level of the interval.
        """
        if self.interval == "percentile":
            return percentile_interval(replicates, confidence)
        # Where all images are inside or all outside, so are those of every resample.
        certain = (
            self.bounds == SHARE
            and replicates[0] in SHARE
            and np.allclose(replicates, replicates[0], rtol=0, atol=ROUNDING)
        )
        if self.interval == "recentred" and not certain:
            return recentred_interval(replicates, confidence, self.bounds)
        if replicates[0] != replicates[0]:
            return None
        return wilson_interval(round(replicates[0] * n), n, confidence)


class NoSettings(Config):
    """Settings of a metric that has none."""


def _two_images(_settings: Any, _classes: int) -> int:
    return 2


def _no_provenance(_settings: Any, _classes: int) -> Mapping[str, Value]:
    return {}


@dataclass(frozen=True)
class Metric(Generic[Settings]):
    """All that the platform knows about a metric; each metric's file makes one, `METRIC`."""

    name: str
    """As `evaluation.metrics` lists it."""
    outputs: Mapping[str, MetricOutput]
    """The values that `compute` may give, by name, in the order of tables."""
    compute: Callable[[Sample, Sample, Settings, int], dict[str, Floats]]
    """(generated, real, settings, seed) -> replicates (1 + B,) float64 by output. Replicate 0 is the
    estimate, NaN where there are too few images for one."""
    settings: type[Settings]
    """Its section of the config, `evaluation.NAME`."""
    provenance: Callable[[Settings, int], Mapping[str, Value]] = _no_provenance
    """(settings, number of classes) -> its settings as the provenance of a report shows them."""
    compared: Mapping[str, str] = field(default_factory=dict)
    """Keys of `provenance` in which two reports must agree, and what to say where they do not."""
    compared_for_outputs: tuple[str, ...] = ()
    """Further keys of a report's provenance in which two reports must agree for these outputs to be
    compared."""
    for_few_images: bool = False
    """Whether single classes have it however few their images: it is unbiased, or a plain
    proportion."""
    fewest: Callable[[Settings, int], int] = _two_images
    """(settings, number of classes) -> images on each side from which it is defined."""
    generated_alone: bool = False
    """Whether the real images do not enter."""
    cuts_real: bool = False
    """Whether classes with more real images than others are cut to the smallest for it; else weights make
    every class count alike."""
    needs_own_classes: bool = False
    """Whether the extractor's logits must be of the data set's own classes."""
    needs_logits: bool = False
    """Whether the extractor must give logits, of whatever classes."""
    from_classifiers: bool = False
    """Whether its values come from classifiers that are trained on the images, not from features."""
    needs_nearest: bool = False
    """Whether generated images are compared with the training images beforehand."""

    def settings_in(self, evaluation: Config) -> Settings:
        """Return its settings in an `EvaluationConfig`."""
        settings: Settings = getattr(evaluation, self.name, None) or self.settings()
        return settings
