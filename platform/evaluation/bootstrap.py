"""Uncertainty of metrics: resampled images as weights, and the intervals that follow from them.

A metric takes two `Sample`s and returns replicates (1 + B,): replicate 0 is the estimate on the
images as they are, the others are the same estimate on B resamples. Two evaluations whose classes
have the same numbers of images, under one seed, are resampled alike, so that the replicates of
their difference are the differences of their replicates (the paired bootstrap).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import NormalDist
from typing import Literal

import numpy as np

from ...trainers.data.long_tail import MOST_UNEVEN
from .arrays import Bools, Floats, Floats32, Ints


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Sample:
    """One side of a comparison, generated or real, with the weights of its resamples.

    Args:
        features: (n, d) float32; metrics compute in float64, a block at a time.
        logits: (n, K) float32.
        labels: (n,) int64, the strata.
        weights: (n, 1 + B) float32; column 0 is the weight of each image, 1 on average, column b its
            weight in resample b. Every class keeps its total weight in every column.
        copy_ratios: (n,) distance to the nearest training image, see `metrics/memorisation.py`; None
            where it is not known.
        own_logits: (n, classes) float32 of the data set's own classes; None where there are none.
        copied_labels: (n,) the class of that training image.
    """

    features: Floats32
    logits: Floats32
    labels: Ints
    weights: Floats32
    copy_ratios: Floats | None = None
    own_logits: Floats32 | None = None
    copied_labels: Ints | None = None

    def __len__(self) -> int:
        return len(self.features)

    @property
    def num_replicates(self) -> int:
        """Number of replicates, 1 + B."""
        return int(self.weights.shape[1])

    @property
    def effective(self) -> float:
        """How many images of equal weight vary as much in a mean, (sum w)^2 / sum w^2 (Kish 1965), at most n."""
        weights = self.weights[:, 0].astype(np.float64)
        return float(weights.sum() ** 2 / (weights @ weights))

    def of(self, classes: Sequence[int]) -> Sample:
        """Return the images of these classes, resampled as in the whole; itself where that is all."""
        rows = np.isin(self.labels, classes)
        if rows.all():
            return self
        some = self.at(rows)
        mean = some.weights[:, 0].mean(dtype=np.float64)
        return some if mean == 1 else replace(some, weights=some.weights / np.float32(mean))

    def with_classes_alike(self) -> Sample:
        """Return the images with weights by which every class has the same share of the whole.

        Generated images are as many of every class, so real ones have to stand for the same mixture, of
        which a mean over them is then an unbiased estimate. With C classes, an image of a class of n_c of
        all n images weighs n / (C n_c).
        """
        _, class_of, counts = np.unique(self.labels, return_inverse=True, return_counts=True)
        if counts.min() == counts.max():
            return self
        share = (len(self) / (len(counts) * counts)).astype(np.float32)[class_of]
        return replace(self, weights=self.weights * share[:, None])

    def evened(self, seed: int) -> Sample:
        """Return as many images of every class as the smallest has, without weights, resampled anew.

        For what weights do not serve: where images are counted by their neighbours. Itself where classes
        are about even: cutting them would only cost images.
        """
        classes, counts = np.unique(self.labels, return_counts=True)
        least = int(counts.min())
        if counts.max() <= MOST_UNEVEN * least:
            return self
        rng = np.random.default_rng(0)
        rows = np.sort(
            np.concatenate(
                [rng.permutation(np.flatnonzero(self.labels == c))[:least] for c in classes]
            )
        )
        resamples = self.num_replicates - 1
        some = resample(
            self.features[rows], self.logits[rows], self.labels[rows], resamples, seed, "real"
        )
        return replace(
            some, copy_ratios=None if self.copy_ratios is None else self.copy_ratios[rows]
        )

    def left_out(self, changes: Floats) -> Floats:
        """Return how a value varies over the resamples by these images, (1 + B,); 0 at replicate 0.

        The jackknife, as linear replicates: leaving image i out changes the value by `changes[i]`.
        Its variance is on average no less than the true one (Efron & Stein, "The Jackknife Estimate
        of Variance", Annals of Statistics 1981), so that it serves values that do not change
        smoothly with the weights, for which resamples show too little.

        Args:
            changes: (n,), the value without an image less the value with all.
        """
        _, class_of, counts = np.unique(self.labels, return_inverse=True, return_counts=True)
        influences = -changes * (1 - 1 / counts[class_of])
        of_class = np.bincount(class_of, influences) / counts
        resampled = self.weights / self.weights[:, :1]
        varied: Floats = (influences - of_class[class_of]) @ resampled
        varied[0] = 0.0
        return varied

    def at(self, rows: Bools | Ints) -> Sample:
        """Return the images at these rows, by index or by mask."""
        return Sample(
            self.features[rows],
            self.logits[rows],
            self.labels[rows],
            self.weights[rows],
            None if self.copy_ratios is None else self.copy_ratios[rows],
            None if self.own_logits is None else self.own_logits[rows],
            None if self.copied_labels is None else self.copied_labels[rows],
        )

    def by_class(self) -> Iterator[Sample]:
        """Yield one sample for each class that has images."""
        return (self.of([int(c)]) for c in np.unique(self.labels))


def resample(
    features: Floats32,
    logits: Floats32,
    labels: Ints,
    resamples: int,
    seed: int,
    side: Literal["generated", "real"],
) -> Sample:
    """Resample with replacement within each class: how many images a class has is not random.

    Of a class of n images n - 1 are sampled, with the weight n / (n - 1) each (the rescaled bootstrap;
    Rao & Wu, "Resampling Inference with Complex Survey Data", JASA 1988). Its variance is that of
    independent images; n samples of weight 1 would have (n - 1) / n of it, half with two images.
    A class's weights are a function of (seed, side, class, its number of images) alone.
    """
    weights = np.ones((len(labels), 1 + resamples), np.float32)
    for c in np.unique(labels):
        rows = np.flatnonzero(labels == c)
        n = len(rows)
        if n > 1:
            rng = np.random.default_rng([seed, side == "real", int(c)])
            counts = rng.multinomial(n - 1, np.full(n, 1 / n), size=resamples)
            weights[rows, 1:] = counts.T * (n / (n - 1))
    return Sample(features, logits, labels, weights)


def percentile_interval(replicates: Floats, confidence: float) -> Estimate | None:
    """Return the middle `confidence` of the replicates; None where the metric is undefined."""
    estimate, resampled = replicates[0], replicates[1:][np.isfinite(replicates[1:])]
    if not np.isfinite(estimate) or not len(resampled):
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Estimate(float(estimate), float(low), float(high))


def recentred_interval(
    replicates: Floats, confidence: float, bounds: tuple[float, float]
) -> Estimate | None:
    """Return the percentile interval, moved so that the replicates' mean is the estimate.

    It is cut to `bounds`. For metrics that resampling shifts as well as spreads: FID grows as the
    number of different images falls (its mean and covariance carry more noise, and noise only adds
    distance), and a resample has about 63 % of them; recall's balls grow for the same reason. That shift is the
    resampling's own, so only the spread is used. It is the interval of the metric at this number
    of images: FID's bias from a finite number of images stays in it.
    """
    interval = percentile_interval(replicates, confidence)
    if interval is None:
        return None
    shift = interval.value - float(np.nanmean(replicates[1:]))
    low, high = (
        min(max(end + shift, bounds[0]), bounds[1]) for end in (interval.low, interval.high)
    )
    return Estimate(interval.value, min(low, interval.value), max(high, interval.value))


def wilson_interval(successes: int, trials: int, confidence: float) -> Estimate | None:
    """Return a proportion with its score interval (Wilson 1927).

    It holds for few trials and at proportions of 0 and 1.

    Resampling a proportion of 1 gives an interval of no width; this one does not.
    """
    if not trials:
        return None
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    shrink = 1 + z**2 / trials
    middle = (share + z**2 / (2 * trials)) / shrink
    half = z / shrink * sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    low = middle - half if successes else 0.0  # rounding would leave it on the other side of 0
    high = middle + half if successes < trials else 1.0
    return Estimate(share, low, high)
