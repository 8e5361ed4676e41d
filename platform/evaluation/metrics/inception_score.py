"""Inception Score: how sure each image's class is and how varied the classes are; higher is better.

Salimans, Goodfellow, Zaremba, Cheung, Radford, Chen, "Improved Techniques for Training GANs",
NeurIPS 2016, section 4.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field

from ....trainers.config import Config
from ..arrays import Floats
from ..bootstrap import Sample
from .base import Metric, MetricOutput, Note
from .products import to_device

SHUFFLE_SEED = 2020
"""Of the images' order before they are split; torch-fidelity's."""


class InceptionScoreConfig(Config):
    """The parts of the images over which the score is averaged."""

    splits: int = Field(10, ge=1)
    """Parts of the images over which the Inception Score is averaged."""


def compute(
    generated: Sample, _real: Sample, settings: InceptionScoreConfig, _seed: int
) -> dict[str, Floats]:
    """Return `inception_score`, at least 1: the mean over splits of exp E KL(p(y|x) || p(y)).

    A resample weighs the images within the same splits. NaN below two images a split.
    """
    n, splits = len(generated), settings.splits
    if n < 2 * splits:
        return {"inception_score": np.full(generated.num_replicates, np.nan)}
    order = np.random.RandomState(SHUFFLE_SEED).permutation(n)
    parts = (order[i * n // splits : (i + 1) * n // splits] for i in range(splits))
    scores = [_score(generated.at(part)) for part in parts]
    return {"inception_score": np.mean(scores, axis=0)}


def _score(sample: Sample) -> Floats:
    """Return exp (H(p(y)) - E H(p(y|x))) = exp E KL(p(y|x) || p(y)), per resample, (1 + B,)."""
    log_p = to_device(sample.logits).log_softmax(1)  # (n, K)
    p = log_p.exp()
    # NaN for a resample without an image of this part.
    weights = to_device(sample.weights)
    weights = weights / weights.sum(0)  # (n, 1 + B)
    marginal = weights.T @ p  # p(y), (1 + B, K)
    conditional = weights.T @ torch.special.entr(p).sum(1)  # E H(p(y|x)), (1 + B,)
    scores: Floats = (torch.special.entr(marginal).sum(1) - conditional).exp().cpu().numpy()
    return scores


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
    provenance=lambda settings: {"inception_splits": settings.splits},
    compared={"inception_splits": "the Inception Score has other splits"},
)
