"""Accuracy, precision and recall of a classifier on test images, of which every class counts alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..data.packed import Indices

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Shares in [0, 1]."""

    accuracy: Mapping[str, float]
    """`overall`, then each group's: the mean over its classes of the share that is predicted right. Where
    classes have as many test images, it is the share of these images."""
    precision: float
    """Macro: the mean over classes; a class that is never predicted counts as 0."""
    recall: float
    """Macro, which is the overall accuracy."""
    per_class_recall: tuple[float, ...]

    def values(self) -> dict[str, float]:
        """Return a flat dict: `accuracy/overall`, `accuracy/few`, ..., `precision`, `recall`."""
        accuracy = {f"accuracy/{name}": share for name, share in self.accuracy.items()}
        return {**accuracy, "precision": self.precision, "recall": self.recall}


def recall_by_class(labels: Indices, predictions: Indices, num_classes: int) -> Floats:
    """Return the share of each class's images that is predicted right, (C,); each class has some."""
    right = np.bincount(labels[labels == predictions], minlength=num_classes)
    shares: Floats = right / np.bincount(labels, minlength=num_classes)
    return shares


def score(
    labels: Indices, predictions: Indices, num_classes: int, groups: Mapping[str, Sequence[int]]
) -> Scores:
    """Compare predictions (N,) with labels (N,), in which each class has at least one image.

    Images of a class of n weigh 1 / n, so that a long-tailed validation split measures the same as a
    balanced test set, without leaving images out.

    Args:
        groups: class ids of each group, such as many, medium and few.
    """
    from sklearn.metrics import precision_score  # type: ignore[import-untyped]

    recall = recall_by_class(labels, predictions, num_classes)
    precision = precision_score(
        labels,
        predictions,
        labels=range(num_classes),
        average="macro",
        sample_weight=1 / np.bincount(labels, minlength=num_classes)[labels],
        zero_division=0,
    )
    accuracy = {"overall": float(recall.mean())}
    accuracy |= {name: float(recall[list(classes)].mean()) for name, classes in groups.items()}
    return Scores(accuracy, float(precision), float(recall.mean()), tuple(map(float, recall)))
