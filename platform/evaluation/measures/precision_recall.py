"""Improved precision and recall: the share of one set inside the other's manifold; higher is better.

Kynkäänniemi, Karras, Laine, Lehtinen, Aila, "Improved Precision and Recall Metric for Assessing
Generative Models", NeurIPS 2019. Precision is the share of generated images that the real manifold
covers, recall that of real images that the generated manifold covers.

The manifold is a ball around each image that reaches to its k-th nearest other image (equation 1,
with <=). In a resample the balls are those of the different images in it: a copy at distance zero
would shrink its original's ball.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..bootstrap import Floats, Floats32, Sample
from .products import blocks, own_products, products, squared_norms, to_device

if TYPE_CHECKING:
    from ..config import EvaluationConfig

PAIRS = 2**15
"""Pairs of a point and a ball that are looked at together, in all resamples."""


def measure(generated: Sample, real: Sample, config: EvaluationConfig) -> dict[str, Floats]:
    """`precision` and `recall` in [0, 1]; NaN where the manifold has no more than k images."""
    x, y = (_Balls.of(side, config.recall_k) for side in (generated, real))
    in_generated, in_real = y.there.new_zeros(y.there.shape), x.there.new_zeros(x.there.shape)
    for rows, columns, inner in products(generated.features, real.features):
        distances = _squared_distances(inner, x.norms[rows], y.norms[columns])
        y.cover(in_real[rows], distances, columns)
        x.cover(in_generated[columns], distances.T, rows)
    return {
        "precision": _share(generated, in_real, len(real) > config.recall_k),
        "recall": _share(real, in_generated, len(generated) > config.recall_k),
    }


@dataclass(frozen=True)
class _Balls:
    """The manifold of one set of n images in each resample; tensors on the device."""

    norms: Tensor  # (n,) float64, |x_i|^2
    there: Tensor  # (n, 1 + B) bool, whether the image is in the resample
    radii: Tensor  # (n, 1 + B) float64, squared; -1, which holds nothing, where n <= k

    @classmethod
    def of(cls, sample: Sample, k: int) -> _Balls:
        norms, there = squared_norms(sample.features), to_device(sample.weights) > 0
        radii = norms.new_full(there.shape, -1.0)
        if len(sample) > k:
            # About 63 % of the images are in a resample: of so many, at least k are there in all but
            # one case in 10^7, which takes the last.
            count = min(4 * k + 12 if sample.draws > 1 else k, len(sample) - 1)
            near, ids = _nearest_others(sample.features, norms, count)
            for rows in blocks(len(sample)):
                known = there.new_zeros(there[rows].shape, dtype=torch.int16)
                kth = torch.zeros_like(known, dtype=torch.int64)  # (b, 1 + B)
                for neighbour in ids[rows].T:  # from the nearest
                    known += there[neighbour]
                    kth += known < k
                radii[rows] = near[rows].gather(1, kth.clamp(max=count - 1))
        return cls(norms, there, radii)

    def cover(self, inside: Tensor, distances: Tensor, balls: slice) -> None:
        """Mark in `inside` (b, 1 + B) the points that lie in one of these balls.

        Args:
            distances: squared, from the points to these balls' centres, (b, c) float64.
        """
        there, radii = self.there[balls], self.radii[balls]  # (c, 1 + B)
        # A ball is smallest where nothing is left out, in column 0: a point in it then is in it
        # whenever it is there, which is a product of zeros and ones.
        always = distances <= radii[:, 0]
        inside |= always.float() @ there.float() > 0
        if radii.shape[1] == 1:
            return
        sometimes = (distances <= radii.amax(1)) & ~always & ~inside.all(1, keepdim=True)
        for pairs in sometimes.nonzero().split(PAIRS):
            point, ball = pairs.T
            holds = there[ball] & (distances[point, ball, None] <= radii[ball])  # (PAIRS, 1 + B)
            inside |= (
                torch.zeros_like(inside, dtype=torch.float32).index_add_(0, point, holds.float())
                > 0
            )


def _nearest_others(x: Floats32, norms: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Squared distances, ascending, and indices of each row's nearest other rows, (n, count)."""
    near = norms.new_full((len(x), count), torch.inf)
    ids = torch.zeros(near.shape, dtype=torch.int64, device=near.device)

    def keep(rows: slice, columns: slice, distances: Tensor) -> None:
        best, found = distances.topk(min(count, distances.shape[1]), largest=False)
        candidates = torch.cat([near[rows], best], 1)
        near[rows], order = candidates.topk(count, largest=False)
        ids[rows] = torch.cat([ids[rows], found + columns.start], 1).gather(1, order)

    for rows, columns, inner in own_products(x):
        distances = _squared_distances(inner, norms[rows], norms[columns])
        if rows == columns:
            keep(rows, columns, distances.fill_diagonal_(torch.inf))
        else:
            keep(rows, columns, distances)
            keep(columns, rows, distances.T)
    return near, ids


def _squared_distances(inner: Tensor, x_norms: Tensor, y_norms: Tensor) -> Tensor:
    """|x - y|^2 from the inner products (b, c); overwrites them."""
    return inner.mul_(-2).add_(x_norms[:, None]).add_(y_norms).clamp_(min=0)


def _share(points: Sample, inside: Tensor, defined: bool) -> Floats:
    """Weighted share of the points that are inside, (1 + B,)."""
    if not defined:
        return np.full(points.draws, np.nan)
    found: Floats = (to_device(points.weights) * inside).sum(0).cpu().numpy()
    return found / len(points)
