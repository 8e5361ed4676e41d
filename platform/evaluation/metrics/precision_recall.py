"""Improved precision and recall: the share of one set inside the other's manifold; higher is better.

Kynkäänniemi, Karras, Laine, Lehtinen, Aila, "Improved Precision and Recall Metric for Assessing
Generative Models", NeurIPS 2019. Precision is the share of generated images that the real manifold
covers, recall that of real images that the generated manifold covers.

The manifold is a ball around each image that reaches to its k-th nearest other image (equation 1,
with <=). A resample has some 63 % of the images, whose k-th neighbours are farther, so that balls made
anew in it would hold too much and those near 1 would show no spread where there is one; balls kept as
they are show half of it. So replicates come from leaving out one image of the manifold at a time: its
ball goes, and those that it limits grow to their next neighbour.
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

NEIGHBOURHOODS = 10
"""A side needs this many times k images: with fewer, a ball holds a tenth of all and more, and noise
has a high precision."""


class PrecisionRecallConfig(Config):
    """How far the balls of the manifolds reach."""

    k: int = Field(5, ge=1)
    """Neighbours that set a ball's radius; CBDM uses 5, others use 3."""


def compute(
    generated: Sample, real: Sample, settings: PrecisionRecallConfig, seed: int
) -> dict[str, Floats]:
    """Return `precision` and `recall` in [0, 1]; NaN below `NEIGHBOURHOODS` k images on a side.

    Recall is a mean over the real images, by their weights. Their manifold is made of as many of every
    class: a ball reaches to the k-th neighbour, so that classes of many images have a closer one, and
    weights would not change that.
    """
    even = real.evened(seed)
    if min(len(generated), len(even)) < NEIGHBOURHOODS * settings.k:
        undefined = np.full(generated.num_replicates, np.nan)
        return {"precision": undefined, "recall": undefined}
    x, y = (_Balls.of(side.features, settings.k) for side in (generated, even))
    resampled = generated.num_replicates > 1
    in_real, in_generated = _Cover(y, len(generated), resampled), _Cover(x, len(real), resampled)
    for rows, columns, inner in products(generated.features, even.features):
        distances = _squared_distances(inner, x.norms[rows], y.norms[columns])
        in_real.add(rows, columns, distances)
        if even is real:
            in_generated.add(columns, rows, distances.T)
    if even is not real:
        norms = squared_norms(real.features)
        for rows, columns, inner in products(generated.features, real.features):
            distances = _squared_distances(inner, x.norms[rows], norms[columns])
            in_generated.add(columns, rows, distances.T)
    return {
        "precision": _share(generated, in_real, even),
        "recall": _share(real, in_generated, generated),
    }


@dataclass(frozen=True)
class _Balls:
    """The manifold of one set of n images; tensors on the device."""

    norms: Tensor  # (n,) float64, |x_i|^2
    radii: Tensor  # (n,) float64, squared distance to the k-th nearest other image
    wider: Tensor  # (n,) float64, and to the next one
    neighbours: Tensor  # (n, k), the images that set the radius

    @classmethod
    def of(cls, features: Floats32, k: int) -> _Balls:
        norms = squared_norms(features)
        distances, neighbours = _nearest(features, norms, k + 1)
        # Inner products give |x - y|^2 up to this: without it, the ball of an image that exists
        # k + 1 times would miss some of its copies.
        rounding = 4 * features.shape[1] * torch.finfo(norms.dtype).eps * norms
        radii, wider = distances[:, k - 1] + rounding, distances[:, k] + rounding
        return cls(norms, radii, wider, neighbours[:, :k])


class _Cover:
    """Which of n points lie in the balls of a manifold, and what leaving out a ball would change.

    Args:
        balls: the manifold.
        n: number of points.
        resampled: whether `changes` is asked for.
    """

    def __init__(self, balls: _Balls, n: int, resampled: bool) -> None:
        self.balls, self.resampled = balls, resampled
        self.count = torch.zeros(n, dtype=torch.int64, device=balls.norms.device)
        self.owner = torch.zeros_like(self.count)  # sum of the balls; the ball where count is 1
        self.beyond: list[Tensor] = []  # (2, p): points, and balls that would hold them if wider

    def add(self, points: slice, balls: slice, distances: Tensor) -> None:
        """Take in the squared distances of some points to some balls' centres, (b, c) float64."""
        inside = distances <= self.balls.radii[balls]
        self.count[points] += inside.sum(1)
        if not self.resampled:
            return
        index = torch.arange(balls.start, balls.stop, device=distances.device)
        self.owner[points] += (inside.double() @ index.double()).long()
        # A ball holds about one more image of its own set where it is wider: pairs are few.
        just_outside = (distances <= self.balls.wider[balls]) & ~inside
        just_outside &= (self.count[points] < 2)[:, None]
        pairs = just_outside.nonzero().T
        pairs[0] += points.start
        pairs[1] += balls.start
        self.beyond.append(pairs)

    def changes(self, weights: Floats) -> Floats:
        """Return by what weight the covered points change without each image of the manifold, (m,).

        Args:
            weights: (n,) of the points.
        """
        weight = to_device(weights)
        m, k = self.balls.neighbours.shape
        changes = torch.zeros(m, dtype=torch.float64, device=self.count.device)
        point, ball = torch.cat(self.beyond, 1)
        limits = self.balls.neighbours[
            ball
        ]  # (p, k), the images whose absence makes it hold the point
        alone = self.count == 1
        # Points of one ball fall out without it, unless its absence widens another that holds them.
        rescued = torch.zeros_like(alone)
        kept = alone[point] & (limits == self.owner[point, None]).any(1)
        rescued[point[kept]] = True
        lost = alone & ~rescued
        changes.index_add_(0, self.owner[lost], -weight[lost])
        free = self.count[point] == 0
        pairs = torch.stack([point[free, None].expand(-1, k).flatten(), limits[free].flatten()])
        points, gained = pairs.unique(dim=1)
        changes.index_add_(0, gained, weight[points])
        return changes.cpu().numpy()


def _nearest(x: Floats32, norms: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the squared distances of each row to its k nearest other rows, ascending, and those rows."""
    near = norms.new_full((len(x), k), torch.inf)
    index = torch.zeros(len(x), k, dtype=torch.int64, device=norms.device)

    def keep(rows: slice, columns: slice, distances: Tensor) -> None:
        best, at = distances.topk(min(k, distances.shape[1]), largest=False)
        both = torch.cat([near[rows], best], 1)
        indices = torch.cat([index[rows], at + columns.start], 1)
        near[rows], order = both.topk(k, largest=False)
        index[rows] = indices.gather(1, order)

    for rows, columns, inner in self_products(x):
        distances = _squared_distances(inner, norms[rows], norms[columns])
        if rows == columns:
            keep(rows, columns, distances.fill_diagonal_(torch.inf))
        else:
            keep(rows, columns, distances)
            keep(columns, rows, distances.T)
    return near, index


def _squared_distances(inner: Tensor, x_norms: Tensor, y_norms: Tensor) -> Tensor:
    """Return |x - y|^2 from the inner products (b, c); overwrites them."""
    return inner.mul_(-2).add_(x_norms[:, None]).add_(y_norms).clamp_(min=0)


def _share(points: Sample, cover: _Cover, manifold: Sample) -> Floats:
    """Return the share of the points that are inside, (1 + B,)."""
    inside = (cover.count > 0).double().cpu().numpy()
    share: Floats = inside @ points.weights / (np.ones(len(points)) @ points.weights)
    if cover.resampled:
        weights = points.weights[:, 0].astype(np.float64) / len(points)
        share = share + manifold.left_out(cover.changes(weights))
    return share


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
    cuts_real=True,
    fewest=lambda settings, _classes: NEIGHBOURHOODS * settings.k,
    provenance=lambda settings, _classes: {"recall_k": settings.k},
    compared={"recall_k": "recall and precision use another k"},
)
