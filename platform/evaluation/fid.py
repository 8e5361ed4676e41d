"""Fréchet distance (FID) between Gaussians fitted to two sets of features; lower is better.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule ...", NeurIPS 2017.
"""

from __future__ import annotations

import numpy as np

from .bootstrap import Floats, Sample


def frechet_distance(
    x: Floats, y: Floats, x_weights: Floats | None = None, y_weights: Floats | None = None
) -> float:
    """|m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)) (Heusel et al., equation 6).

    With centred rows X and Y, tr (S_x S_y)^(1/2) is the sum of the singular values of
    X Y^T / sqrt((n - 1)(m - 1)); with X = Q R those of R_x R_y^T, at most d x d. So no root of a
    matrix is taken, and fewer rows than features (a singular S) lose no accuracy.

    Args:
        x: (n, d) float64; at least two images.
        y: (m, d) float64; at least two images.
        x_weights: (n,) how often each row counts; once if not given.
        y_weights: (m,) likewise.
    """
    x_mean, x_root = _mean_and_root(x, x_weights)
    y_mean, y_root = _mean_and_root(y, y_weights)
    cross = np.linalg.svd(x_root @ y_root.T, compute_uv=False).sum()
    traces = (x_root**2).sum() + (y_root**2).sum()
    return float(((x_mean - y_mean) ** 2).sum() + traces - 2 * cross)


def resampled_fid(generated: Sample, real: Sample) -> Floats:
    """FID of the images and of every resample, as draws (1 + B,); NaN below two images a side."""
    if min(len(generated), len(real)) < 2:
        return np.full(generated.weights.shape[1], np.nan)
    return np.array(
        [
            frechet_distance(generated.features, real.features, w, v)
            for w, v in zip(generated.weights.T, real.weights.T, strict=True)
        ]
    )


def _mean_and_root(x: Floats, weights: Floats | None) -> tuple[Floats, Floats]:
    """Mean (d,) and R (min(n, d), d) with R^T R the covariance over n - 1."""
    if weights is not None:
        x, weights = x[weights > 0], weights[weights > 0]
    else:
        weights = np.ones(len(x))
    mean = weights @ x / weights.sum()
    rows = np.sqrt(weights / (weights.sum() - 1))[:, None] * (x - mean)
    root: Floats = np.linalg.qr(rows, mode="r")  # type: ignore[assignment]
    return mean, root
