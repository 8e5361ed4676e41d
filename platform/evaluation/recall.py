"""Improved precision and recall: the share of one set inside the other's manifold; higher is better.

Kynkäänniemi, Karras, Laine, Lehtinen, Aila, "Improved Precision and Recall Metric for Assessing
Generative Models", NeurIPS 2019. Recall is the share of real images that the generated manifold
covers, precision that of generated images that the real manifold covers.
"""

from __future__ import annotations

import numpy as np

from .bootstrap import Floats, Ints, Sample

CHUNK = 1024
"""Rows of a distance matrix that are held at a time."""


def resampled_coverage(points: Sample, manifold: Sample, k: int) -> Floats:
    """Share of `points` inside the manifold of the other sample, as draws (1 + B,).

    The manifold is a ball around each image that reaches to its k-th nearest other image (equation
    1, with <=). In a resample the balls are those of the different images in it: a copy at
    distance zero would shrink its original's ball. NaN: a manifold of k images or fewer.
    """
    resamples = points.weights.shape[1]
    if not len(points) or len(manifold) <= k:
        return np.full(resamples, np.nan)
    # About 63 % of the images are in a resample, so its k-th neighbour is among the first 8 k.
    distances, neighbours = _nearest_others(manifold.features, min(8 * k, len(manifold) - 1))
    point, centre, distance = _pairs_within(points.features, manifold.features, distances[:, -1])

    draws = np.empty(resamples)
    for b in range(resamples):
        there = manifold.weights[:, b] > 0
        kth = (there[neighbours].cumsum(1) < k).sum(1)
        radius = np.take_along_axis(
            distances, np.minimum(kth, distances.shape[1] - 1)[:, None], axis=1
        )[:, 0]
        inside = np.zeros(len(points))
        inside[point[there[centre] & (distance <= radius[centre])]] = 1
        draws[b] = points.weights[:, b] @ inside / len(points)
    return draws


def _nearest_others(x: Floats, count: int) -> tuple[Floats, Ints]:
    """Distances (n, count), ascending, and indices (n, count) of each row's nearest other rows."""
    distances, indices = np.empty((len(x), count)), np.empty((len(x), count), np.int64)
    for start in range(0, len(x), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(x)))
        block = _distances(x[rows], x)
        block[rows - start, rows] = np.inf  # an image is not its own neighbour
        nearest = np.argpartition(block, count - 1, axis=1)[:, :count]
        found = np.take_along_axis(block, nearest, axis=1)
        order = found.argsort(axis=1)
        distances[rows] = np.take_along_axis(found, order, axis=1)
        indices[rows] = np.take_along_axis(nearest, order, axis=1)
    return distances, indices


def _pairs_within(points: Floats, centres: Floats, reach: Floats) -> tuple[Ints, Ints, Floats]:
    """Indices of points and of centres, and their distance, where it is at most the reach (m,)."""
    found = []
    for start in range(0, len(points), CHUNK):
        block = _distances(points[start : start + CHUNK], centres)
        point, centre = np.nonzero(block <= reach)
        found.append((point + start, centre, block[point, centre]))
    point, centre, distance = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return point, centre, distance


def _distances(x: Floats, y: Floats) -> Floats:
    """Euclidean distances, (n, d), (m, d) -> (n, m)."""
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    distances: Floats = np.sqrt(np.maximum(squares, 0))
    return distances
