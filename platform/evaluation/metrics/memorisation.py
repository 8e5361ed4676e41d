"""Memorisation: generated images that are nearly copies of training images.

An image's ratio is its distance to a training image, once both are aligned (`alignment.py`), over the usual
distance of that image's class: between its training images and their nearest others. The least ratio
counts, whatever the class that was asked for: methods that pass images of the head on to the tail copy
across classes. Features of a network find no copy that aligned pixels miss, and are moved further than
these by blur, noise and compression: docs/evidence.md has both. What is left is rotation, and parts of less
than three quarters of an image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from ....trainers.config import Config
from ....trainers.data.packed import Images
from ....trainers.errors import DataProblem
from ..arrays import Bools, Floats, Ints, Pixels
from ..bootstrap import Sample
from ..extractors.base import Value
from .alignment import aligned, nearest_pairs
from .base import SHARE, Metric, MetricOutput, Note

MIN_IMAGES = 3
"""Training images from which a class has a usual distance of its own."""

USUAL_IMAGES = 50
"""Training images of a class, evenly spaced, whose median distance is the usual one."""

CANDIDATES = 8
"""Pairs of an image that are aligned: of 4,000 changed copies the coarse comparison has the original among them
for all but 0.5 %."""

SAME = 0.02
"""Distance below which two training images are the same one, and tell nothing of what is usual."""


class MemorisationConfig(Config):
    """Which generated images count as near copies."""

    copy_ratio: float = Field(0.4, gt=0, lt=1)
    """A generated image is a near copy if a training image of any class is closer, moved, cropped or
    mirrored to fit, than this part of the usual distance between that class's training images and
    their nearest others. On CIFAR-10 0.4 finds the copies that docs/evidence.md lists, and takes no
    held-out image for a copy that is none."""


@dataclass(frozen=True)
class Copies:
    """What generated images are nearest to, by row (n,)."""

    nearest: Ints
    """Index of the training image with the least ratio, of whatever class."""
    ratio: Floats
    """Distance to it over its class's usual distance: 0 for an exact copy, about 1 for a fresh image."""
    mirrored: Bools
    """Whether its mirror image fits best."""
    moved: Floats
    """(n, 2) by how many rows and columns of pixels it is moved."""
    enlarged: Floats
    """By what factor it is enlarged."""

    def how(self, row: int) -> str:
        """Return in words how the training image of a row fits best; empty where it does as it is."""
        pixels = round(float(np.abs(self.moved[row]).max()))
        parts = {
            "mirrored": self.mirrored[row],
            f"moved by {pixels} px": pixels,
            f"enlarged by {100 * (self.enlarged[row] - 1):.0f} %": self.enlarged[row] > 1,
        }
        return ", ".join(text for text, applies in parts.items() if applies)


@dataclass(frozen=True)
class NearestImages(Copies):
    """The nearest training image of each of n generated images."""

    labels: Ints
    """(n,) the class that was asked for."""
    pooled: tuple[int, ...]
    """Classes with too few training images for a usual distance of their own: theirs is the median
    of the other classes'."""

    def provenance(self, class_names: Sequence[str]) -> dict[str, Value]:
        """Return how they were looked for."""
        return {"copies_pooled": ", ".join(class_names[c] for c in self.pooled) or None}

    def top(self, count: int = 24, per_class: int = 4) -> Ints:
        """Return the rows of the images nearest to a training image, the nearest first.

        Args:
            count: at most this many.
            per_class: and at most this many of each class.
        """
        taken: Counter[int] = Counter()
        rows: list[int] = []
        for row in self.ratio.argsort(kind="stable").tolist():
            label = int(self.labels[row])
            if len(rows) < count and taken[label] < per_class:
                taken[label] += 1
                rows.append(row)
        return np.array(rows, np.int64)


class TrainingImages:
    """The training images that generated images are compared with.

    Args:
        images: uint8 (m, C, H, W).
        labels: (m,).
        fingerprint: a name for their content.

    Raises:
        DataProblem: no class with `MIN_IMAGES` different images.
    """

    def __init__(self, images: Images, labels: Ints, fingerprint: str) -> None:
        self.images, self.labels, self.fingerprint = images, labels, fingerprint
        usual, self.pooled = _usual_distances(images, labels)
        self.usual = np.array([usual[c] for c in labels.tolist()])
        """(m,) usual distance of each image's class."""

    def find_nearest(self, generated: Pixels) -> Copies:
        """Return the training image that each image is nearest to.

        Args:
            generated: uint8 (n, C, H, W).

        Raises:
            DataProblem: images of another shape than the training images.
        """
        if generated.shape[1:] != self.images.shape[1:]:
            raise DataProblem(
                f"generated images are {generated.shape[1:]}, training images "
                f"{self.images.shape[1:]}",
                "give the training images at the size at which the model was trained",
            )
        nearest, mirrored = nearest_pairs(generated, self.images, CANDIDATES)
        fits = aligned(generated, self.images, nearest, mirrored)
        ratios = fits.distance / self.usual[nearest]
        best = np.arange(len(generated)), ratios.argmin(1)
        return Copies(
            nearest[best], ratios[best], mirrored[best], fits.moved[best], fits.enlarged[best]
        )


def _usual_distances(train: Images, labels: Ints) -> tuple[dict[int, float], tuple[int, ...]]:
    """Return the usual distance of each class, and the classes that have that of the others.

    It is the median distance of a class's images to their nearest different one. Copies within the
    training set do not count: half a class in duplicate would make it 0.
    """
    usual, few = {}, []
    for c in np.unique(labels).tolist():
        images = train[labels == c]
        nearest = _distances_within(images) if len(images) >= MIN_IMAGES else np.empty(0)
        if len(nearest) >= MIN_IMAGES:
            usual[c] = float(np.median(nearest))
        else:
            few.append(c)
    if not usual:
        raise DataProblem(
            f"no class has {MIN_IMAGES} different training images: no distance is usual",
            "leave memorisation out of evaluation.metrics",
        )
    pooled = float(np.median(list(usual.values())))
    return usual | dict.fromkeys(few, pooled), tuple(few)


def _distances_within(images: Pixels) -> Floats:
    """Return the distances of some images to their nearest different others, without those that have none."""
    count = min(len(images), USUAL_IMAGES)
    some = np.linspace(0, len(images) - 1, count).round().astype(np.int64)
    nearest, mirrored = nearest_pairs(images[some], images, CANDIDATES, left_out=some)
    distances = aligned(images[some], images, nearest, mirrored).distance
    least: Floats = np.where(distances < SAME, np.inf, distances).min(1)
    return least[np.isfinite(least)]


def compute(
    generated: Sample, _real: Sample, settings: MemorisationConfig, _seed: int
) -> dict[str, Floats]:
    """Return shares of generated images, in [0, 1].

    `copies` are near copies, and `copies_across` those of training images of another class than was asked
    for. Nothing where the images were not compared with training images.
    """
    if generated.copy_ratios is None or generated.copied_labels is None:
        return {}
    copies = generated.copy_ratios < settings.copy_ratio
    flagged = {
        "copies": copies,
        "copies_across": copies & (generated.copied_labels != generated.labels),
    }
    weights = generated.weights / len(generated)
    return {name: images.astype(float) @ weights for name, images in flagged.items()}


METRIC = Metric(
    name="memorisation",
    outputs={
        "copies": MetricOutput(
            "Near copies",
            "lower",
            3,
            "proportion",
            SHARE,
            Note(
                "Near copies",
                "share of generated images that fit a training image, of whatever class, much better "
                "than training images fit each other, once both are aligned: moved, cropped, "
                "mirrored, and of equal brightness and contrast.",
            ),
        ),
        "copies_across": MetricOutput(
            "Copies of other classes",
            "lower",
            3,
            "proportion",
            SHARE,
            Note(
                "Copies of other classes",
                "share of generated images that are near copies of a training image of another "
                "class than was asked for.",
            ),
            ranks=False,
        ),
    },
    compute=compute,
    settings=MemorisationConfig,
    provenance=lambda settings, _classes: {
        "copies": f"closer than {settings.copy_ratio:g} of the usual distance, aligned"
    },
    compared={"copies": "near copies are judged otherwise"},
    compared_for_outputs=("train",),
    for_few_images=True,
    fewest=lambda _settings, _classes: 1,
    generated_alone=True,
    needs_nearest=True,
)
