"""Fréchet distance (FID) between Gaussians fitted to two sets of features; lower is better.

Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, "GANs Trained by a Two Time-Scale Update Rule
Converge to a Local Nash Equilibrium", NeurIPS 2017.

Resamples go by the influence function (the infinitesimal jackknife; Efron, "The Jackknife, the
Bootstrap and Other Resampling Plans", 1982): how much the distance changes for a little more weight
on one image. Computing it anew for each resample would cost a decomposition a resample, and would
show less: with fewer images than some ten a feature, a resample's copies leave it so few different
images that its distances scatter up to four times as much as those of independent sets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..arrays import Floats, Floats32
from ..bootstrap import Sample
from .base import Metric, MetricOutput, NoSettings, Note
from .products import blocks, to_device


def compute(
    generated: Sample, real: Sample, _settings: NoSettings, _seed: int
) -> dict[str, Floats]:
    """Return `fid`, at least 0 but for rounding; NaN below two images a side.

    Its replicates are linear in the weights, so that their mean is the estimate.
    """
    if min(len(generated), len(real)) < 2:
        return {"fid": np.full(generated.num_replicates, np.nan)}
    distance, *influences = frechet_distance(generated.features, real.features)
    replicates = np.full(generated.num_replicates, distance)
    for sample, influence in zip((generated, real), influences, strict=True):
        replicates[1:] += influence @ (sample.weights[:, 1:] - 1.0)
    return {"fid": replicates}


def frechet_distance(x: Floats32, y: Floats32) -> tuple[float, Floats, Floats]:
    """Return the Fréchet distance and its derivatives (Heusel et al., equation 6).

        |m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2))

    With roots X^T X = S_x and Y^T Y = S_y, tr (S_x S_y)^(1/2) is the sum of the singular values of
    X Y^T. Centred rows over (n - 1)^(1/2) are such a root, so that few images need no d x d matrix,
    and no root of a product is taken, which loses digits where S is singular.

    Args:
        x: (n, d) float32; at least two images.
        y: (m, d) float32; at least two images.

    Returns:
        The distance and its derivatives by the weight of each image, (n,) and (m,): those that keep
        the sum of the weights and the divisor n - 1. Each is zero on average but for rounding.
    """
    d = x.shape[1]
    # Above this many rows a d x d root takes less time than the singular values do with the rows.
    most = 4 * d if min(len(x), len(y)) < d else d
    one, other = _Side.of(x, most), _Side.of(y, most)
    u, s, vh = torch.linalg.svd(one.root @ other.root.T, full_matrices=False)
    between = one.mean - other.mean  # (d,)
    distance = between @ between + one.trace + other.trace - 2 * s.sum()
    return (
        float(distance),
        one.influences(x, between, u * s.sqrt()),
        other.influences(y, -between, vh.T * s.sqrt()),
    )


@dataclass(frozen=True)
class _Side:
    """Mean and covariance of one set of n images; float64 on the device."""

    mean: Tensor  # (d,)
    trace: Tensor  # tr S
    root: Tensor  # (r, d), root^T root = S = E L E^T: the scaled rows, or L^(1/2) E^T
    whitening: Tensor | None  # (d, r), E L^(-1/2); None where the root is the rows

    @classmethod
    def of(cls, x: Floats32, most: int) -> _Side:
        """Return a set's side, with the rows as the root if there are at most `most`."""
        if len(x) <= most:
            raw = to_device(x)
            mean = raw.mean(0)
            rows = (raw - mean).div_((len(x) - 1) ** 0.5)
            return cls(mean, rows.square().sum(), rows, None)
        mean = torch.stack([to_device(x[b]).sum(0) for b in blocks(len(x))]).sum(0) / len(x)
        covariance = torch.zeros(len(mean), len(mean), dtype=mean.dtype, device=mean.device)
        for block in blocks(len(x)):
            centred = to_device(x[block]) - mean
            covariance += centred.T @ centred / (len(x) - 1)
        values, vectors = torch.linalg.eigh(covariance)
        nonzero = values > values[-1] * len(values) * torch.finfo(values.dtype).eps  # not null
        roots, vectors = values[nonzero].sqrt(), vectors[:, nonzero]
        return cls(mean, covariance.trace(), (vectors * roots).T, vectors / roots)

    def influences(self, x: Floats32, between: Tensor, half: Tensor) -> Floats:
        """Return d FID / d w_i at w = 1, less its mean, (n,).

        FID changes by 2 (m_x - m_y)·dm_x + tr (I - T) dS_x, where T S_x T = S_y is the optimal
        transport between the Gaussians. With X Y^T = U s V^T one has X T X^T = U s U^T, so T is
        never formed and nothing is divided by a small s.

        Args:
            between: this mean less the other, (d,).
            half: U s^(1/2), (r, r') for the root X.
        """
        n = len(x)
        parts = []
        for block in blocks(n):
            if self.whitening is None:
                scaled, carried = self.root[block], half[block]
            else:
                scaled = (to_device(x[block]) - self.mean) / (n - 1) ** 0.5  # (b, d)
                carried = scaled @ (self.whitening @ half)
            shift = 2 * (n - 1) ** 0.5 * (scaled @ between) / n  # 2 (m_x - m_y)·dm_x
            parts.append(shift + scaled.square().sum(1) - carried.square().sum(1))  # x (I - T) x
        influences = torch.cat(parts)
        centred_on_zero: Floats = (influences - influences.mean()).cpu().numpy()
        return centred_on_zero


METRIC = Metric(
    name="fid",
    outputs={
        "fid": MetricOutput(
            "FID",
            "lower",
            2,
            "recentred",
            note=Note(
                "FID",
                "Fréchet distance between Gaussians fitted to the features (Heusel et al., NeurIPS "
                "2017). It is biased upwards, more so with fewer images: compare it at one number "
                "of images.",
            ),
        )
    },
    compute=compute,
    settings=NoSettings,
)
