"""Generated images of `whipray sample` compared with the images that the model was trained on."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...trainers.data import Splits
from ...trainers.errors import UsageProblem
from ..config.tracking import TrackingConfig
from ..datasets.load import load_images
from ..evaluation.arrays import Ints, Pixels
from ..evaluation.metrics.memorisation import METRIC, Copies, TrainingImages
from ..runs.evaluation_inputs import check_data
from ..runs.find_run import find_run
from ..storage.checkpoints import CheckpointStore
from ..storage.store import Storage
from ..tracking import registry
from ..tracking.tracker import open_existing_tracker
from .sample import is_grid


@dataclass(frozen=True)
class SampledCopies:
    """The nearest training image of each of n generated images."""

    copies: Copies
    labels: Ints
    """(n,) the class that was asked for."""
    splits: Splits
    copy_ratio: float
    """Below which an image is a near copy."""

    def summary(self) -> dict[str, int | float | str]:
        """Return how many near copies there are, and the nearest training image of all."""
        near = self.copies.ratio < self.copy_ratio
        others = self.splits.train.labels[self.copies.nearest] != self.labels
        closest = int(self.copies.ratio.argmin())
        return {
            "near_copies": int(near.sum()),
            "of_other_classes": int((near & others).sum()),
            "copy_ratio": self.copy_ratio,
            "lowest_ratio": float(self.copies.ratio[closest]),
            "nearest": self.name_of_nearest(closest),
        }

    def describe(self) -> str:
        """Return the same as a line."""
        summary = self.summary()
        return (
            f"near copies of training images: {summary['near_copies']} of {len(self.labels):,}; the lowest "
            f"ratio is {summary['lowest_ratio']:.2f} ({summary['nearest']})"
        )

    def name_of_nearest(self, image: int) -> str:
        """Return the file of an image's nearest training image; its number where it has no file."""
        nearest = int(self.copies.nearest[image])
        names = self.splits.train_name
        return f"training image {nearest}" if names is None else names(nearest)

    def save(self, file: Path, images: Sequence[str]) -> None:
        """Write a table with a row for each image.

        Args:
            file: a CSV file.
            images: what to call each image.

        Raises:
            UsageProblem: the file cannot be written.
        """
        try:
            with file.open("w", encoding="utf-8", newline="") as stream:
                csv.writer(stream).writerows(self._rows(images))
        except OSError as error:
            raise UsageProblem(
                f"{file}: cannot be written ({error.strerror or error})", "give another --out"
            ) from error

    def _rows(self, images: Sequence[str]) -> Iterator[tuple[str, ...]]:
        yield ("image", "class", "ratio", "near_copy", "nearest", "nearest_class", "fits")
        names, train = self.splits.train.class_names, self.splits.train
        for row, image in enumerate(images):
            ratio = self.copies.ratio[row]
            yield (
                image,
                names[self.labels[row]],
                f"{ratio:.4f}",
                "yes" if ratio < self.copy_ratio else "no",
                self.name_of_nearest(row),
                names[train.labels[self.copies.nearest[row]]],
                self.copies.how(row) or "as it is",
            )


class CopySearch:
    """The training images of a model, ready to compare generated images with.

    Args:
        root: the store's top.
        tracking: MLflow's tracking URI; None: the database in the store.
        target: a run, SWEEP/TRIAL, or models:/NAME@ALIAS, whose run has to be in the store.

    Raises:
        UsageProblem: no such run.
        DataProblem: the training images cannot be read, or are others than the model was trained on.
    """

    def __init__(self, root: Storage, tracking: str | None, target: str) -> None:
        if target.startswith("models:/"):
            tracker = open_existing_tracker(TrackingConfig(uri=tracking), root)
            target = registry.resolve(tracker, target).origin
        run = find_run(root, target)
        self._splits = load_images(run.experiment.data, root)
        check_data(CheckpointStore(run.store).read_manifest(run.checkpoint), self._splits)
        train = self._splits.train
        self._training = TrainingImages(train.images, train.labels, train.fingerprint())
        self._copy_ratio = METRIC.settings_in(run.experiment.evaluation).copy_ratio

    def find(self, images: Pixels, labels: Ints) -> SampledCopies:
        """Return what images (n, C, H, W) of these classes (n,) are near to."""
        copies = self._training.find_nearest(images)
        return SampledCopies(copies, labels, self._splits, self._copy_ratio)


def table_beside(to: Path) -> Path:
    """Return the table's file: in a folder of images, or beside a grid, whose name it has."""
    return to.with_suffix(".copies.csv") if is_grid(to) else to / "copies.csv"


def images_in(to: Path, files: Sequence[str], count: int, per_class: int) -> list[str]:
    """Return what to call each of `count` images: its file, or its row and column of a grid."""
    if not is_grid(to):
        return [str(Path(file).relative_to(to)) for file in files]
    return [f"row {n // per_class + 1}, column {n % per_class + 1}" for n in range(count)]
