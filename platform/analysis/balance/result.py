"""A balanced set in numbers, as `whipray balance` prints and returns it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...config.balancing import FilterConfig
from ...evaluation.arrays import Bools, Ints
from .subject import Subject
from .writing import WrittenSet


@dataclass(frozen=True)
class ClassCounts:
    """Images of one class, or of several."""

    name: str
    group: str
    """many, medium or few."""
    real: int
    generated: int
    kept: int
    near_copies: int
    """Among those that are kept."""

    @property
    def total(self) -> int:
        """Images to train on."""
        return self.real + self.kept

    @property
    def lost(self) -> float:
        """Share of the generated images that is rejected."""
        return 1 - self.kept / self.generated if self.generated else 0.0


@dataclass(frozen=True)
class BalanceResult:
    """Classes that were filled up, and where the images are."""

    subject: Subject
    weights: str
    """Hash of the checkpoint that generated."""
    identity: str
    to: int
    classes: Sequence[ClassCounts]
    """By class id."""
    test_images: int
    image_shape: tuple[int, int, int]
    """(C, H, W)."""
    distances: Mapping[str, Mapping[str, float]]
    """Quantiles of what images are filtered by."""
    images_generated: int
    """0 where all were in the store."""
    written: WrittenSet | None
    """None where no set was asked for."""
    page: str
    """Path of the datasheet, in the run's store."""
    warnings: tuple[str, ...]
    note: str | None
    """Why it is not in MLflow; None where it is."""

    @property
    def filter(self) -> FilterConfig:
        """What is kept."""
        return self.subject.experiment.balancing.filter

    @cached_property
    def groups(self) -> list[ClassCounts]:
        """All classes together, then those of each group."""
        parts = {"overall": list(self.classes)}
        for group in ("many", "medium", "few"):
            parts[group] = [each for each in self.classes if each.group == group]
        return [
            ClassCounts(
                name,
                name,
                *(
                    sum(getattr(each, key) for each in some)
                    for key in ("real", "generated", "kept", "near_copies")
                ),
            )
            for name, some in parts.items()
            if some
        ]

    def document(self) -> dict[str, Any]:
        """Return the result as JSON types."""
        experiment = self.subject.experiment
        written = self.written
        return {
            "model": self.subject.name,
            "run": self.subject.run.key,
            "checkpoint": self.subject.run.checkpoint,
            "weights": self.weights,
            "identity": self.identity,
            "to": self.to,
            "filter": self.filter.model_dump(),
            "sampling": experiment.sampling.model_dump(mode="json"),
            "seed": experiment.seed,
            "images": {
                key: getattr(self.groups[0], key)
                for key in ("real", "generated", "kept", "near_copies", "total")
            }
            | {"test": self.test_images},
            "classes": [{**asdict(each), "total": each.total} for each in self.classes],
            "distances": self.distances,
            "images_generated": self.images_generated,
            "set": written
            and {
                "folder": str(written.folder),
                "form": written.form,
                "images": written.images,
                "written": written.written,
            },
            "page": self.subject.run.store.uri_of(self.page),
            "warnings": list(self.warnings),
            "note": self.note,
        }


def count_classes(
    names: Sequence[str],
    groups: Mapping[str, Sequence[int]],
    real: Ints,
    labels: Ints,
    kept: Bools,
    near_copy: Bools,
) -> list[ClassCounts]:
    """Return the counts of each class.

    Args:
        groups: class ids of each group.
        real: (C,) training images.
        labels: (N,) classes of the generated images.
        kept: (N,).
        near_copy: (N,).
    """
    group_of = {c: group for group, ids in groups.items() for c in ids}
    columns = (
        real,
        np.bincount(labels, minlength=len(names)),
        np.bincount(labels[kept], minlength=len(names)),
        np.bincount(labels[kept & near_copy], minlength=len(names)),
    )
    return [
        ClassCounts(name, group_of[c], *(int(column[c]) for column in columns))
        for c, name in enumerate(names)
    ]


def quantiles(values: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Return smallest, median and largest of each; of those that are numbers."""
    result = {}
    for name, column in values.items():
        numbers = np.asarray(column, np.float64)
        numbers = numbers[np.isfinite(numbers)]
        if len(numbers):
            low, middle, high = np.quantile(numbers, [0, 0.5, 1]).tolist()
            result[name] = {"min": low, "median": middle, "max": high}
    return result
