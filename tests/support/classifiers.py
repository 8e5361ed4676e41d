"""Classifiers that several processes train together; to be called in each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from whipray.trainers.classification import fit
from whipray.trainers.classification.config import ClassificationConfig
from whipray.trainers.data import Digits, PackedImages

CPU = torch.device("cpu")


def few_digits() -> tuple[PackedImages, PackedImages]:
    """Three or four images of each digit, and as many others."""
    splits = Digits().load(Path())

    def some(images: PackedImages, each: int) -> PackedImages:
        rows = [np.flatnonzero(images.labels == c)[: each - c % 2] for c in range(10)]
        return images.select(np.concatenate(rows))

    return some(splits.train, 4), some(splits.reference, 4)


def train_digits(config: ClassificationConfig) -> dict[str, Any]:
    """Train with added images, in this process's group if it has one."""
    torch.set_num_threads(1)
    real, others = few_digits()
    losses: list[float] = []
    trained = fit.train_classifier(
        real, config, 0, CPU, others, lambda _epoch, loss, _trained: losses.append(loss)
    )
    state = {name: t.numpy() for name, t in trained.network.state_dict().items()}
    return {"losses": losses, "state": state}


def score_digits(config: ClassificationConfig) -> fit.Outcome:
    """Train and test, in this process's group if it has one."""
    real, others = few_digits()
    return fit.train_and_test(real, others, {"many": range(10)}, config, 0, CPU)
