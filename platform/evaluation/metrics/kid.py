"""Kernel distance (KID): unbiased squared MMD with a cubic kernel; lower is better.

Bińkowski, Sutherland, Arbel, Gretton, "Demystifying MMD GANs", ICLR 2018.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ....trainers.config import Config
from ..arrays import Floats, Floats32, Ints
from ..bootstrap import Sample
from .base import ROUNDING, Metric, MetricOutput, Note
from .products import products, self_products, to_device


class KIDConfig(Config):
    """KID as it is published: the mean over random subsets."""

    subsets: int = Field(100, ge=1)
    """Subsets behind `kid_subsets`."""

    subset_size: int = Field(1000, ge=2)
    """Images a side in each; with fewer images there is no `kid_subsets`."""


def compute(generated: Sample, real: Sample, settings: KIDConfig, seed: int) -> dict[str, Floats]:
    """Return `kid`, over all pairs of images, and `kid_subsets`, as it is published.

    The mean over random subsets only adds noise to the same expectation, so its replicates are those
    of `kid`, moved; real classes that are not even are cut for it, since a subset has no weights. It is
    absent where a side has fewer images than a subset; `kid` is NaN where a side has no two different
    images.
    """
    kid = resampled_kid(generated, real)
    replicates = {"kid": kid}
    size, even = settings.subset_size, real.evened(seed)
    if min(len(generated), len(even)) >= size:
        value = kid_of_subsets(generated.features, even.features, settings.subsets, size, seed)
        around = kid if even is real else resampled_kid(generated, even)
        replicates["kid_subsets"] = value + (around - around[0])
    return replicates


def resampled_kid(generated: Sample, real: Sample) -> Floats:
    """Return the squared MMD of two stratified samples as replicates (1 + B,).

    It is negative at times for sets that are alike.

    For one class it is the U-statistic of Bińkowski et al. (equation 4). For several, images were
    not sampled independently: each class has a fixed number of them, so a random pair is of one class
    less often than in the mixture, by about 1/n, and the plain U-statistic falls below zero for a
    perfect generator. The mean kernel is therefore put together from unbiased means within and
    between classes. With shares p_c of the classes, by their weights, and k_ij = k(y_i, y_j),

        E k(y, y') = sum_c p_c^2 E k_cc + sum_{c != d} p_c p_d E k_cd,

    where E k_cc is estimated by the sum over i != j of w_i w_j k_ij over that of w_i w_j, and E k_cd by the
    sum of w_i w_j k_ij over all pairs over that of w_i w_j. Both are unbiased whatever the weight of a class
    and its number of images from two on, and so is their sum. A class with one image on a side has no E k_cc
    there, so that this term is left out of both sides' sums and of the one between them, which are over what
    is left of sum p_c p_d: in one of them alone, equal sets would not be at 0.
    """
    if min(len(generated), len(real)) < 2:
        return np.full(generated.num_replicates, np.nan)
    single = np.union1d(_classes_of_one(generated), _classes_of_one(real))
    within = _mean_kernel(generated, single) + _mean_kernel(real, single)
    return within - 2 * _mean_kernel_between(generated, real, single)


def _classes_of_one(sample: Sample) -> Ints:
    classes, counts = np.unique(sample.labels, return_counts=True)
    single: Ints = classes[counts == 1]
    return single


def kid_of_subsets(x: Floats32, y: Floats32, subsets: int, size: int, seed: int) -> float:
    """Return the mean U-statistic of random subsets without replacement, of (n, d) and (m, d).

    The order of the random numbers is that of the authors' code, which torch-fidelity keeps.
    """
    generator = np.random.RandomState(seed)
    total = 0.0
    for _ in range(subsets):
        a = to_device(x[generator.choice(len(x), size, replace=False)])
        b = to_device(y[generator.choice(len(y), size, replace=False)])
        for side in (a, b):
            kernel = _cubic(side @ side.T, a.shape[1])
            total += float(kernel.sum() - kernel.trace()) / (size * (size - 1))
        total -= 2 * float(_cubic(a @ b.T, a.shape[1]).mean())
    return total / subsets


def _cubic(inner: Tensor, d: int) -> Tensor:
    """Return k(x, y) = (x·y / d + 1)^3 (their section 4) of the inner products; overwrites them."""
    base = inner.div_(d).add_(1)
    return base * base * base


def _mean_kernel_between(x: Sample, y: Sample, left_out: Ints) -> Floats:
    """Return the mean kernel of an image of each side, per resample, (1 + B,).

    Args:
        left_out: classes of which no two images are a pair.
    """
    u, v = to_device(x.weights), to_device(y.weights)
    total = u.new_zeros(x.num_replicates)
    for rows, columns, inner in products(x.features, y.features):
        kernel = _cubic(inner, x.features.shape[1])
        total += (u[rows] * (kernel @ v[columns])).sum(0)
    totals = u[:, 0].sum() * v[:, 0].sum()
    for c in left_out:
        left, right = x.at(x.labels == c), y.at(y.labels == c)
        inner = to_device(left.features) @ to_device(right.features).T
        u, v = to_device(left.weights), to_device(right.weights)
        total -= (u * (_cubic(inner, x.features.shape[1]) @ v)).sum(0)
        totals -= u[:, 0].sum() * v[:, 0].sum()
    return (total / totals).cpu().numpy()


def _mean_kernel(sample: Sample, left_out: Ints) -> Floats:
    """Return the mean kernel of two different images of the classes' mixture, per resample, (1 + B,).

    Copies of one original are no pair: k(x, x) would count as the distance of two images.

    Args:
        left_out: classes of which no two images are a pair; those of one image have to be among them.
    """
    weights = to_device(sample.weights)  # (n, 1 + B)
    classes, class_of = np.unique(sample.labels, return_inverse=True)
    member = torch.from_numpy(class_of).to(weights.device)  # (n,)
    # The weight of each class, (C, 1): n_c where images have none.
    of_class = weights.new_zeros(len(classes), 1).index_add_(0, member, weights[:, :1])
    n = of_class.sum()

    total = weights.new_zeros(sample.num_replicates)
    within = weights.new_zeros(len(classes), sample.num_replicates)
    for rows, columns, inner in self_products(sample.features):
        kernel = _cubic(inner, sample.features.shape[1])
        times = 1 if rows == columns else 2  # a tile off the diagonal stands for its transpose too
        if rows == columns:
            kernel.fill_diagonal_(0)
        total += times * (weights[rows] * (kernel @ weights[columns])).sum(0)
        same = member[rows, None] == member[columns]
        if same.any():
            sums = weights[rows] * ((kernel * same) @ weights[columns])
            within.index_add_(0, member[rows], sums, alpha=times)

    squares = torch.zeros_like(within).index_add_(0, member, weights.square())
    pairs = of_class.square() - squares  # of different originals, (C, 1 + B)
    means = within / pairs  # of each class, (C, 1 + B)
    # A resample may have one original of a class of few: that class then has the mean of all of its
    # images. Left out, it would take its large kernels with it, and shift the replicate.
    means = torch.where(pairs > ROUNDING * of_class.square(), means, means[:, :1])
    share = (of_class / n).square()  # of the mixture's pairs, (C, 1)
    absent = torch.from_numpy(np.isin(classes, left_out)).to(weights.device)[:, None]
    known = 1 - (share * absent).sum(0)
    mean = (torch.where(absent, 0, share * means).sum(0) + (total - within.sum(0)) / n**2) / known
    return torch.where(known > 1e-12, mean, torch.nan).cpu().numpy()


METRIC = Metric(
    name="kid",
    outputs={
        "kid": MetricOutput(
            "KID",
            "lower",
            4,
            "percentile",
            note=Note(
                "KID",
                "squared MMD with the kernel (x·y/d + 1)³, unbiased, so that it can be negative and "
                "holds for few images (Bińkowski et al., ICLR 2018).",
            ),
        ),
        "kid_subsets": MetricOutput(
            "KID, mean of subsets",
            "lower",
            4,
            "percentile",
            note=Note(
                "KID, mean of subsets",
                "the same over random subsets ({kid_subsets}), as it is published.",
            ),
            ranks=False,  # with few images there is none
        ),
    },
    compute=compute,
    settings=KIDConfig,
    provenance=lambda settings, _classes: {
        "kid_subsets": f"{settings.subsets} of {settings.subset_size}"
    },
    compared={"kid_subsets": "KID's subsets are others"},
    for_few_images=True,
)
