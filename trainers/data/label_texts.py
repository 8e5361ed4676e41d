"""Labels that are words: numbered in the order of the sorted words, or of given names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import DataProblem
from .packed import Indices
from .report import shown


def number_labels(
    labels: Sequence[str], class_names: Sequence[str] | None, name: Callable[[int], str]
) -> tuple[Indices, list[str]]:
    """Return the ids (N,) of N labels, and the names of the classes.

    Args:
        class_names: in the order of the ids; None for the sorted labels.
        name: gives what messages call the image at an index.

    Raises:
        DataProblem: a label that is none of the names, or is empty.
    """
    names = sorted(set(labels)) if class_names is None else list(class_names)
    ids = {name: c for c, name in enumerate(names)}
    for index, label in enumerate(labels):
        if label not in ids or not label.strip():
            what = f"label {shown(label)[:80]} is none of the classes" if label else "no label"
            raise DataProblem(f"{name(index)}: {what}", "correct the label, or name every class")
    return np.array([ids[label] for label in labels], np.int64), names
