"""Inception Score: how sure each image's class is and how varied the classes are; higher is better.

Salimans, Goodfellow, Zaremba, Cheung, Radford, Chen, "Improved Techniques for Training GANs",
NeurIPS 2016, section 4.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field

from ....trainers.config import Config
from ..arrays import Floats, Floats32
from ..bootstrap import Sample
from .base import Metric, MetricOutput, Note
from .products import to_device

SHUFFLE_SEED = 2020
"""Of the images' order before they are split; torch-fidelity's."""
PER_SPLIT = 10
"""Images that a split needs: with two, the intervals hold the truth in three of four cases."""


class InceptionScoreConfig(Config):
    """The parts of the images over which the score is averaged."""

    splits: int = Field(10, ge=1)
    """Parts of the images over which the Inception Score is averaged."""


def compute(
    generated: Sample, _real: Sample, settings: InceptionScoreConfig, _seed: int
) -> dict[str, Floats]:
    """Return `inception_score`, at least 1: the mean over splits of exp E KL(p(y|x) || p(y)).

    Its replicates come from leaving each image out: among the few different images of a resample a
    split looks less varied than it is. NaN below `PER_SPLIT` images a split.
    """
    n, splits = len(generated), settings.splits
    if n < PER_SPLIT * splits:
        return {"inception_score": np.full(generated.num_replicates, np.nan)}
    order = np.random.RandomState(SHUFFLE_SEED).permutation(n)
    scores, changes = np.empty(splits), np.empty(n)
    for i in range(splits):
        part = order[i * n // splits : (i + 1) * n // splits]
        scores[i], without = _score(generated.logits[part])
        changes[part] = (without - scores[i]) / splits
    return {"inception_score": scores.mean() + generated.left_out(changes)}


def _score(logits: Floats32) -> tuple[float, Floats]:
    """Return exp (H(p(y)) - E H(p(y|x))) = exp E KL(p(y|x) || p(y)), and it without each image.

    Args:
        logits: (n, K), of at least two images.
    """
    log_p = to_device(logits).log_softmax(1)  # (n, K)
    p, n = log_p.exp(), len(log_p)
    entropies = torch.special.entr(p).sum(1)  # H(p(y|x)), (n,)
    score = (torch.special.entr(p.mean(0)).sum() - entropies.mean()).exp()
    marginals = (p.sum(0) - p).div_(n - 1).clamp_(min=0)  # p(y) without image i, (n, K)
    conditional = (entropies.sum() - entropies) / (n - 1)
    without = (torch.special.entr(marginals).sum(1) - conditional).exp()
    return float(score), without.cpu().numpy()


METRIC = Metric(
    name="inception_score",
    outputs={
        "inception_score": MetricOutput(
            "Inception Score",
            "higher",
            2,
            "recentred",
            (1.0, float("inf")),
            Note(
                "Inception Score",
                "exp of the mean divergence of p(y|x) from p(y) (Salimans et al., NeurIPS 2016).",
            ),
        )
    },
    compute=compute,
    settings=InceptionScoreConfig,
    fewest=lambda settings, _classes: PER_SPLIT * settings.splits,
    generated_alone=True,
    needs_logits=True,
    provenance=lambda settings, _classes: {"inception_splits": settings.splits},
    compared={"inception_splits": "the Inception Score has other splits"},
)
