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
    distance, *influences = frechet_distance(
        generated.features, real.features, generated.weights[:, 0], real.weights[:, 0]
    )
    replicates = np.full(generated.num_replicates, distance)
    for sample, influence in zip((generated, real), influences, strict=True):
        replicates[1:] += influence @ (sample.weights[:, 1:] - sample.weights[:, :1].astype(float))
    return {"fid": replicates}


def frechet_distance(
    x: Floats32, y: Floats32, u: Floats32 | None = None, v: Floats32 | None = None
) -> tuple[float, Floats, Floats]:
    """Return the Fréchet distance and its derivatives (Heusel et al., equation 6).

        |m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2))

    With weights w and W = sum w, m = sum w_i x_i / W and

        S = sum w_i (x_i - m) (x_i - m)^T / (W - sum w_i^2 / W),

    whose divisor is n - 1 without weights and makes S unbiased for independent images of whatever weight.
    So m is unbiased for the mixture that the weights stand for. FID itself is biased upwards by the noise of
    m and S: by less than if the larger classes were cut to the smallest, since that of every class is less.

    With roots X^T X = S_x and Y^T Y = S_y, tr (S_x S_y)^(1/2) is the sum of the singular values of
    X Y^T. Centred rows over (n - 1)^(1/2) are such a root (with weights w^(1/2) (x - m) over the root of the divisor), so that few images need no d x d matrix,
    and no root of a product is taken, which loses digits where S is singular.

    Args:
        x: (n, d) float32; at least two images.
        y: (m, d) float32; at least two images.
        u: (n,), weights of the images, above 0; None: all 1.
        v: (m,), of the others.

    Returns:
        The distance and its derivatives by the weight of each image, (n,) and (m,): those that keep
        the sum of the weights and the divisor. Each is zero on average, by weight, but for rounding.
    """
    d = x.shape[1]
    # Above this many rows a d x d root takes less time than the singular values do with the rows.
    most = 4 * d if min(len(x), len(y)) < d else d
    u = np.ones(len(x), np.float32) if u is None else u
    v = np.ones(len(y), np.float32) if v is None else v
    one, other = _Side.of(x, u, most), _Side.of(y, v, most)
    left, s, right = torch.linalg.svd(one.root @ other.root.T, full_matrices=False)
    between = one.mean - other.mean  # (d,)
    distance = between @ between + one.trace + other.trace - 2 * s.sum()
    return (
        float(distance),
        one.influences(x, between, left * s.sqrt()),
        other.influences(y, -between, right.T * s.sqrt()),
    )


@dataclass(frozen=True)
class _Side:
    """Mean and covariance of one set of n images; float64 on the device."""

    weights: Tensor  # (n,)
    divisor: Tensor  # W - sum w^2 / W; n - 1 without weights
    mean: Tensor  # (d,)
    trace: Tensor  # tr S
    root: Tensor  # (r, d), root^T root = S = E L E^T: the scaled rows, or L^(1/2) E^T
    whitening: Tensor | None  # (d, r), E L^(-1/2); None where the root is the rows

    @classmethod
    def of(cls, x: Floats32, weights: Floats32, most: int) -> _Side:
        """Return a set's side, with the rows as the root if there are at most `most`."""
        w = to_device(weights)
        total = w.sum()
        divisor = total - w.square().sum() / total
        if len(x) <= most:
            raw = to_device(x)
            mean = w @ raw / total
            rows = (raw - mean).mul_((w / divisor).sqrt()[:, None])
            return cls(w, divisor, mean, rows.square().sum(), rows, None)
        mean = torch.stack([w[b] @ to_device(x[b]) for b in blocks(len(x))]).sum(0) / total
        covariance = torch.zeros(len(mean), len(mean), dtype=mean.dtype, device=mean.device)
        for block in blocks(len(x)):
            centred = to_device(x[block]) - mean
            covariance += (centred.T * w[block]) @ centred / divisor
        values, vectors = torch.linalg.eigh(covariance)
        nonzero = values > values[-1] * len(values) * torch.finfo(values.dtype).eps  # not null
        roots, vectors = values[nonzero].sqrt(), vectors[:, nonzero]
        root, whitening = (vectors * roots).T, vectors / roots
        return cls(w, divisor, mean, covariance.trace(), root, whitening)

    def influences(self, x: Floats32, between: Tensor, half: Tensor) -> Floats:
        """Return d FID / d w_i, less its mean, (n,).

        FID changes by 2 (m_x - m_y)·dm_x + tr (I - T) dS_x, where T S_x T = S_y is the optimal
        transport between the Gaussians. With X Y^T = U s V^T one has X T X^T = U s U^T, so T is
        never formed and nothing is divided by a small s.

        Args:
            between: this mean less the other, (d,).
            half: U s^(1/2), (r, r') for the root X.
        """
        total = self.weights.sum()
        parts = []
        for block in blocks(len(x)):
            if self.whitening is None:
                root = self.weights[block].sqrt()[:, None]
                scaled, carried = self.root[block] / root, half[block] / root
            else:
                scaled = (to_device(x[block]) - self.mean) / self.divisor.sqrt()  # (b, d)
                carried = scaled @ (self.whitening @ half)
            shift = 2 * self.divisor.sqrt() * (scaled @ between) / total  # 2 (m_x - m_y)·dm_x
            parts.append(shift + scaled.square().sum(1) - carried.square().sum(1))  # x (I - T) x
        influences = torch.cat(parts)
        centred_on_zero: Floats = (influences - self.weights @ influences / total).cpu().numpy()
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
