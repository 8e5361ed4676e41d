"""Precision and recall of distributions (PRD), as F_8 and F_1/8; higher is better.

Sajjadi, Bachem, Lucic, Bousquet, Gelly, "Assessing Generative Models via Precision and Recall",
NeurIPS 2018 (arXiv 1806.00035). Both sets are clustered together; what is compared are the two
histograms over the clusters.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ....trainers.config import Config
from ....trainers.devices import choose_device
from ..arrays import Floats, Floats32, Ints
from ..bootstrap import Sample
from .base import SHARE, Metric, MetricOutput, Note

SLOPES = np.tan(np.linspace(1e-10, np.pi / 2 - 1e-10, 1001))
"""lambda of the curve, (A,): the authors' code takes 1001 equal angles."""

PER_CLUSTER = 5
"""Images a side that a cluster needs on average."""


MOST_BY_BATCHES = 2000
"""Up to so many clusters, those of a hundred classes, k-means is by mini-batches, with the best of ten initialisations
by k-means++. Its time grows with the square of the clusters: 20,000 would take days."""
ROUNDS = 5
"""Assignments of Lloyd's k-means with more clusters. With three, F_8 of images that vary too little is 0.014 higher."""
TILE_NUMBERS = 2**25
"""Products of images and centres at a time: 128 MiB."""


class PRDConfig(Config):
    """How images are clustered."""

    clusters_per_class: int = Field(20, ge=1)
    """Clusters of the histograms, for each class; 20 as CBDM."""

    runs: int = Field(10, ge=1)
    """Seeded runs of k-means over which F_8 and F_1/8 are averaged."""


def compute(generated: Sample, real: Sample, settings: PRDConfig, seed: int) -> dict[str, Floats]:
    """Return `f_8`, which weighs recall, and `f_1_8`, which weighs precision, in [0, 1].

    As in the authors' code: the best F of a curve that is the mean over some runs of k-means.
    Clusters lean towards the larger set, so that it is first cut to the size of the smaller, and real
    classes that are not even to the smallest: a class needs images for each of its clusters, which
    weights do not give it. A
    resample weighs the histograms; its clusters are those of the images as they are. NaN below
    `PER_CLUSTER` images a cluster on a side: bins that are empty by chance count as what is missing,
    so that F_8 of a perfect generator is 0.6 at one image a cluster, 0.8 at two and 0.93 at five.
    """
    real = real.evened(seed)
    n = min(len(generated), len(real))
    classes = np.union1d(generated.labels, real.labels)
    clusters = settings.clusters_per_class * len(classes)
    if n < PER_CLUSTER * clusters:
        undefined = np.full(generated.num_replicates, np.nan)
        return {"f_8": undefined, "f_1_8": undefined}
    generator = np.random.default_rng(seed)
    x, y = (side if len(side) == n else _cut(side, n, generator) for side in (generated, real))
    union = np.concatenate([x.features, y.features])  # (2 n, d)
    curve = np.zeros((len(SLOPES), generated.num_replicates))
    for run_seed in generator.integers(2**32, size=settings.runs):
        bins = _cluster(union, clusters, int(run_seed))
        curve += precisions(
            _histograms(bins[:n], x.weights, clusters), _histograms(bins[n:], y.weights, clusters)
        )
    curve /= settings.runs
    return {"f_8": best_f(curve, 8), "f_1_8": best_f(curve, 1 / 8)}


def precisions(p: Floats, q: Floats) -> Floats:
    """Return alpha(lambda) = sum_c min(lambda q_c, p_c) for all slopes (their section 3.2).

    Args:
        p: (C, 1 + B) shares of generated images in each cluster.
        q: (C, 1 + B) shares of real ones.

    Returns:
        Precision alpha (A, 1 + B); recall is alpha / lambda.
    """
    ratios = np.divide(p, q, out=np.full_like(p, np.inf), where=q > 0)
    order = ratios.argsort(0)
    ratios, p, q = (np.take_along_axis(a, order, 0) for a in (ratios, p, q))
    nothing = np.zeros((1, p.shape[1]))
    # Where p / q < lambda the least is p, and lambda q in the rest; q from its end, since lambda
    # goes to 10^10.
    p_sums = np.concatenate([nothing, p.cumsum(0)])
    q_rests = np.concatenate([q[::-1].cumsum(0)[::-1], nothing])
    alpha = np.empty((len(SLOPES), p.shape[1]))
    for b in range(p.shape[1]):
        smaller = ratios[:, b].searchsorted(SLOPES)  # clusters with p / q < lambda, (A,)
        alpha[:, b] = p_sums[smaller, b] + SLOPES * q_rests[smaller, b]
    return alpha


def best_f(precision: Floats, beta: float) -> Floats:
    """Return the greatest F_beta on each curve, (A, 1 + B) -> (1 + B,).

        F_beta = (1 + beta^2) P R / (beta^2 P + R)

    A beta above 1 weighs recall.
    """
    recall = precision / SLOPES[:, None]
    # As in the authors' code, where neither is above zero F is zero.
    f: Floats = (1 + beta**2) * precision * recall / (beta**2 * precision + recall + 1e-10)
    best: Floats = f.max(0).clip(0, 1)
    return best


def _cluster(features: Floats32, clusters: int, seed: int) -> Ints:
    """Return the cluster of each image, (n,)."""
    if clusters > MOST_BY_BATCHES:
        return lloyd(features, clusters, seed)
    # Imported late, for it takes a second.
    from sklearn.cluster import MiniBatchKMeans  # type: ignore[import-untyped]

    k_means = MiniBatchKMeans(clusters, n_init=10, random_state=seed).fit(features)
    return np.asarray(k_means.labels_, np.int64)


def lloyd(features: Floats32, clusters: int, seed: int) -> Ints:
    """Return the cluster of each image, (n,), after some rounds of Lloyd's k-means from random images.

    Args:
        features: (n, d).
        clusters: at most n.
        seed: of the images that are the first centres.
    """
    x = torch.from_numpy(features).to(choose_device())
    first = np.random.default_rng(seed).choice(len(features), clusters, replace=False)
    centres = x[torch.from_numpy(first).to(x.device)]
    for _ in range(ROUNDS - 1):
        nearest = _nearest(x, centres)
        sums = torch.zeros_like(centres).index_add_(0, nearest, x)
        sizes = torch.bincount(nearest, minlength=clusters)[:, None]
        centres = torch.where(sizes > 0, sums / sizes, centres)
    return _nearest(x, centres).cpu().numpy()


def _nearest(x: Tensor, centres: Tensor) -> Tensor:
    """Return the row of the centre (C, d) that each of x (n, d) is nearest to, (n,) int64."""
    half = centres.square().sum(1) / 2  # |x - c|^2 / 2 is least where x·c - |c|^2 / 2 is greatest
    rows = max(1, TILE_NUMBERS // len(centres))
    return torch.cat([(some @ centres.T).sub_(half).argmax(1) for some in x.split(rows)])


def _histograms(bins: Ints, weights: Floats32, clusters: int) -> Floats:
    """Return the share of the images in each cluster, per resample, (C, 1 + B)."""
    sums = np.zeros((clusters, weights.shape[1]))
    np.add.at(sums, bins, weights)
    shares: Floats = sums / sums.sum(0)
    return shares


def _cut(sample: Sample, n: int, generator: np.random.Generator) -> Sample:
    """Return n of the images at random, in each class its share of the whole within one image."""
    position = np.empty(len(sample))  # in its class's random order, in [0, 1)
    for c in np.unique(sample.labels):
        rows = generator.permutation(np.flatnonzero(sample.labels == c))
        position[rows] = (np.arange(len(rows)) + generator.random()) / len(rows)
    return sample.at(np.sort(position.argsort()[:n]))


def _provenance(settings: PRDConfig, classes: int) -> dict[str, str]:
    """Return how images were clustered; mini-batches, the usual way, are not named."""
    of_many = f", above {MOST_BY_BATCHES} clusters {ROUNDS} rounds of Lloyd's"
    is_large = settings.clusters_per_class * classes > MOST_BY_BATCHES
    return {
        "prd": f"{settings.clusters_per_class} clusters a class, {settings.runs} runs"
        + (of_many if is_large else "")
    }


_NOTE = Note(
    "F_8, F_1/8",
    "from precision and recall of distributions over k-means clusters; F_8 weighs recall, F_1/8 "
    "precision (Sajjadi et al., NeurIPS 2018).",
)

METRIC = Metric(
    name="prd",
    outputs={
        "f_8": MetricOutput("F_8", "higher", 3, "recentred", SHARE, _NOTE),
        "f_1_8": MetricOutput("F_1/8", "higher", 3, "recentred", SHARE, _NOTE),
    },
    compute=compute,
    settings=PRDConfig,
    cuts_real=True,
    fewest=lambda settings, classes: PER_CLUSTER * settings.clusters_per_class * classes,
    provenance=_provenance,
    compared={"prd": "F_8 and F_1/8 were clustered otherwise"},
)
