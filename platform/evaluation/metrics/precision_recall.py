"""Improved precision and recall: the share of one set inside the other's manifold; higher is better.

Kynkäänniemi, Karras, Laine, Lehtinen, Aila, "Improved Precision and Recall Metric for Assessing
Generative Models", NeurIPS 2019. Precision is the share of generated images that the real manifold
covers, recall that of real images that the generated manifold covers.

The manifold is a ball around each image that reaches to its k-th nearest other image (equation 1,
with <=). A resample leaves balls out and counts points again, but does not make the balls anew: among
the 63 % of images that are different, the k-th neighbour is farther, so that every share would grow
and those near 1 would all be 1, which shows no spread where there is one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ....trainers.config import Config
from ..arrays import Floats, Floats32
from ..bootstrap import Sample
from .base import SHARE, Metric, MetricOutput, Note
from .products import products, self_products, squared_norms, to_device


class PrecisionRecallConfig(Config):
    """How far the balls of the manifolds reach."""

    k: int = Field(5, ge=1)
    """Neighbours that set a ball's radius; CBDM uses 5, others use 3."""


def compute(
    generated: Sample, real: Sample, settings: PrecisionRecallConfig, _seed: int
) -> dict[str, Floats]:
    """Return `precision` and `recall` in [0, 1]; NaN where the manifold has no more than k images."""
    x, y = (_Balls.of(side, settings.k) for side in (generated, real))
    in_generated, in_real = torch.zeros_like(y.present) > 0, torch.zeros_like(x.present) > 0
    for rows, columns, inner in products(generated.features, real.features):
        distances = _squared_distances(inner, x.norms[rows], y.norms[columns])
        y.cover(in_real[rows], distances, columns)
        x.cover(in_generated[columns], distances.T, rows)
    return {
        "precision": _share(generated, in_real, len(real) > settings.k),
        "recall": _share(real, in_generated, len(generated) > settings.k),
    }


@dataclass(frozen=True)
class _Balls:
    """The manifold of one set of n images; tensors on the device."""

    norms: Tensor  # (n,) float64, |x_i|^2
    radii: Tensor  # (n,) float64, squared; -1, which holds nothing, where n <= k
    present: Tensor  # (n, 1 + B) float32, 1 where the image is in the resample

    @classmethod
    def of(cls, sample: Sample, k: int) -> _Balls:
        norms = squared_norms(sample.features)
        present = (to_device(sample.weights) > 0).float()
        if len(sample) <= k:
            return cls(norms, torch.full_like(norms, -1), present)
        return cls(norms, _distance_to_kth(sample.features, norms, k), present)

    def cover(self, inside: Tensor, distances: Tensor, balls: slice) -> None:
        """Mark in `inside` (b, 1 + B) the points that lie in one of these balls.

        Args:
            distances: squared, from the points to these balls' centres, (b, c) float64.
        """
        inside |= (distances <= self.radii[balls]).float() @ self.present[balls] > 0


def _distance_to_kth(x: Floats32, norms: Tensor, k: int) -> Tensor:
    """Return the squared distance of each row to the k-th nearest other row, (n,)."""
    near = norms.new_full((len(x), k), torch.inf)

    def keep(rows: slice, distances: Tensor) -> None:
        best = distances.topk(min(k, distances.shape[1]), largest=False).values
        near[rows] = torch.cat([near[rows], best], 1).topk(k, largest=False).values

    for rows, columns, inner in self_products(x):
        distances = _squared_distances(inner, norms[rows], norms[columns])
        if rows == columns:
            keep(rows, distances.fill_diagonal_(torch.inf))
        else:
            keep(rows, distances)
            keep(columns, distances.T)
    return near.amax(1)


def _squared_distances(inner: Tensor, x_norms: Tensor, y_norms: Tensor) -> Tensor:
    """Return |x - y|^2 from the inner products (b, c); overwrites them."""
    return inner.mul_(-2).add_(x_norms[:, None]).add_(y_norms).clamp_(min=0)


def _share(points: Sample, inside: Tensor, defined: bool) -> Floats:
    """Return the weighted share of the points that are inside, (1 + B,)."""
    if not defined:
        return np.full(points.num_replicates, np.nan)
    total: Floats = (to_device(points.weights) * inside).sum(0).cpu().numpy()
    return total / len(points)


_NOTE = Note(
    "Precision, recall",
    "share of generated images inside the real images' balls of k nearest neighbours, and the other "
    "way round (Kynkäänniemi et al., NeurIPS 2019); k = {recall_k}.",
)

METRIC = Metric(
    name="precision_recall",
    outputs={
        "precision": MetricOutput("Precision", "higher", 3, "recentred", SHARE, _NOTE),
        "recall": MetricOutput("Recall", "higher", 3, "recentred", SHARE, _NOTE),
    },
    compute=compute,
    settings=PrecisionRecallConfig,
    provenance=lambda settings: {"recall_k": settings.k},
    compared={"recall_k": "recall and precision use another k"},
)
