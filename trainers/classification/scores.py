"""Accuracy, precision and recall of a classifier on balanced test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.packed import Indices


@dataclass(frozen=True)
class Scores:
    """Shares in [0, 1]."""

    accuracy: Mapping[str, float]
    """`overall`, then each group's: the share of its classes' test images that are predicted right."""
    precision: float
    """Macro: the mean over classes; a class that is never predicted counts as 0."""
    recall: float
    """Macro. On a test set with equally many images of each class it is the overall accuracy."""
    per_class_recall: tuple[float, ...]

    def values(self) -> dict[str, float]:
        """Return a flat dict: `accuracy/overall`, `accuracy/few`, ..., `precision`, `recall`."""
        accuracy = {f"accuracy/{name}": share for name, share in self.accuracy.items()}
        return {**accuracy, "precision": self.precision, "recall": self.recall}


def score(
    labels: Indices, predictions: Indices, num_classes: int, groups: Mapping[str, Sequence[int]]
) -> Scores:
    """Compare predictions (N,) with labels (N,).

    Args:
        groups: class ids of each group, such as many, medium and few.
    """
    from sklearn.metrics import (  # type: ignore[import-untyped]
        precision_recall_fscore_support,
    )

    precision, recall, _, _ = precision_recall_fscore_support(
        labels, predictions, labels=range(num_classes), average=None, zero_division=0
    )
    right = labels == predictions
    accuracy = {"overall": float(right.mean())}
    for name, classes in groups.items():
        accuracy[name] = float(right[np.isin(labels, classes)].mean())
    return Scores(
        accuracy, float(precision.mean()), float(recall.mean()), tuple(map(float, recall))
    )
