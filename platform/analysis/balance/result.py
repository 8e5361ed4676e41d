"""A balanced set in numbers, as `whipray balance` prints and returns it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...config.balancing import FilterConfig
from .counts import Count, ImageCounts
from .subject import Subject
from .writing import WrittenSet


@dataclass(frozen=True)
class BalanceResult:
    """Classes that were filled up, and where the images are."""

    subject: Subject
    weights: str
    """Hash of the checkpoint that generated."""
    identity: str
    to: int
    counts: ImageCounts
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

    @property
    def classes(self) -> list[Count]:
        """By class id."""
        return sorted(self.counts.classes, key=lambda each: each.position)

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
            "images": {**_numbers(self.counts.overall), "test": self.test_images},
            "classes": [
                {"name": each.name, "group": each.group, **_numbers(each)} for each in self.classes
            ],
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


def _numbers(count: Count) -> dict[str, int]:
    return {
        "real": count.real,
        "generated": count.generated,
        "kept": count.kept,
        "near_copies": count.kept_copies,
        "total": count.total,
    }


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
