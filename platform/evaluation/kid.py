"""Kernel distance (KID): unbiased squared MMD with a cubic kernel; lower is better.

Binkowski, Sutherland, Arbel, Gretton, "Demystifying MMD GANs", ICLR 2018. All pairs are used
instead of the mean over random subsets: that mean only adds noise to the same expectation.
"""

from __future__ import annotations

import numpy as np

from .bootstrap import Floats, Sample

CHUNK = 1024
"""Rows of a kernel matrix that are held at a time."""


def cubic_kernel(x: Floats, y: Floats) -> Floats:
    """k(x, y) = (x·y / d + 1)^3 (Binkowski et al., section 4): (n, d), (m, d) -> (n, m)."""
    base: Floats = x @ y.T / x.shape[1] + 1
    return base * base * base


def kid(generated: Floats, real: Floats) -> float:
    """Squared MMD between two sets of independent images, by U-statistics (their equation 4).

    Args:
        generated: (n, d) float64, n >= 2.
        real: (m, d) float64, m >= 2.

    Returns:
        An unbiased estimate, which is negative at times when the two sets are alike.
    """
    n, m = len(generated), len(real)
    gg, rr = cubic_kernel(generated, generated), cubic_kernel(real, real)
    between = cubic_kernel(generated, real).mean()
    return float(
        (gg.sum() - gg.trace()) / (n * (n - 1)) + (rr.sum() - rr.trace()) / (m * (m - 1))
    ) - 2 * float(between)


def resampled_kid(generated: Sample, real: Sample) -> Floats:
    """KID of two stratified samples, as draws (1 + B,).

    For one class this is `kid`. For several, images were not drawn independently: each class has a
    fixed number of them, so a random pair is of one class less often than in the mixture, by about
    1/n, and the plain U-statistic falls below zero for a perfect generator. The mean kernel is
    therefore put together from unbiased means within and between classes. NaN: fewer than two
    images on a side.
    """
    if min(len(generated), len(real)) < 2:
        return np.full(generated.weights.shape[1], np.nan)
    between = _weighted_sum(generated, real) / (len(generated) * len(real))
    return _mean_kernel(generated) + _mean_kernel(real) - 2 * between


def _mean_kernel(sample: Sample) -> Floats:
    """Mean kernel of two different images of the classes' mixture, per resample, (1 + B,).

    Copies of one original are no pair: k(x, x) would count as the distance of two images.
    """
    n = len(sample)
    between_classes = _weighted_sum(sample, sample)
    within_classes = np.zeros_like(between_classes)
    known = np.ones_like(between_classes)
    for one in sample.by_class():
        share = (len(one) / n) ** 2  # of the mixture's pairs
        squares = one.weights**2
        total = _weighted_sum(one, one)
        between_classes -= total
        pairs = len(one) ** 2 - squares.sum(0)  # of different originals
        itself = (one.features**2).sum(1) / one.features.shape[1] + 1
        different = total - itself**3 @ squares
        # A class with one original has no such pair; what cannot be known is left out.
        within_classes += share * np.divide(different, pairs, np.zeros_like(pairs), where=pairs > 0)
        known -= share * (pairs == 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Floats = np.where(
            known > 1e-12, (between_classes / n**2 + within_classes) / known, np.nan
        )
    return mean


def _weighted_sum(x: Sample, y: Sample) -> Floats:
    """sum_ij w_ib k(x_i, y_j) v_jb for every resample b, (1 + B,), without the whole matrix."""
    total = np.zeros(x.weights.shape[1])
    for start in range(0, len(x), CHUNK):
        rows = slice(start, start + CHUNK)
        kernel = cubic_kernel(x.features[rows], y.features)
        total += np.einsum("ib,ib->b", x.weights[rows], kernel @ y.weights)
    return total
