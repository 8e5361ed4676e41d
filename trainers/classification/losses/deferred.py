"""Deferred re-weighting: classes by their effective number of images, late in the training."""

from __future__ import annotations

import torch
from torch import Tensor


def deferred_weights(counts: Tensor, epoch: int, epochs: int, beta: float) -> Tensor:
    """Return the weight of each class, (C,) float32 with mean 1 over the classes that have images.

    Cui et al. 2019, eq. 2, from 8/10 of the epochs on, which is where the learning rate of LDAM-DRW
    (Cao et al. 2019, algorithm 1) first falls: epoch 160 of 200. Until then every class has 1.

    Args:
        counts: (C,) float64; a class without images has no weight.
        epoch: counted from 0.
        beta: in [0, 1); 0 weighs all classes alike.
    """
    if epoch * 10 < epochs * 8:
        return torch.ones(len(counts), device=counts.device)
    inverse = (1 - beta) / (1 - beta**counts)  # 1 / E_n, (C,)
    inverse = inverse.where(counts > 0, 0.0)
    return (inverse / inverse.sum() * (counts > 0).sum()).float()
