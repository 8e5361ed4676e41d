"""Memorisation: generated images that are nearly copies of training images.

An image's ratio is its distance to a training image over the usual distance of that image's class:
between its training images and their nearest others. The least ratio counts, whatever the class that
was asked for: methods that pass images of the head on to the tail copy across classes. Distances are Euclidean over pixels:
features that are trained to tell classes apart forget what tells a copy from its neighbours, and at
equal false alarms they find fewer noisy copies. Pixels miss copies that are shifted, cut out or
recoloured, and are too ready to see one in a flat image, which is near to everything; so look at
the pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ....trainers.config import Config
from ....trainers.engine import choose_device
from ....trainers.errors import DataProblem
from ..arrays import Floats, Ints, Pixels
from ..bootstrap import Sample
from ..extractors.base import Value
from .base import SHARE, Metric, MetricOutput, Note
from .products import to_device

MIN_IMAGES = 3
"""Training images from which a class has a usual distance of its own."""

ROWS, BYTES = 2048, 2**26
"""Most rows, and most bytes of them in float64, that are held at a time on each side."""


class MemorisationConfig(Config):
    """Which generated images count as near copies."""

    copy_ratio: float = Field(0.4, gt=0, lt=1)
    """A generated image is a near copy if a training image of any class is closer, in pixels, than
    this part of the usual distance between that class's training images and their nearest others. On CIFAR-10 0.4 finds all copies with noise of up to 10 grey levels, and takes
    0.12 % of fresh images for one."""


@dataclass(frozen=True)
class NearestImages:
    """The nearest training image of each of n generated images."""

    labels: Ints
    """(n,) the class that was asked for."""
    nearest: Ints
    """(n,) index of the training image with the least ratio, of whatever class."""
    ratio: Floats
    """(n,) distance to it over its class's usual distance: 0 for an exact copy, about 1 for a fresh
    image."""
    pooled: tuple[int, ...]
    """Classes with too few training images for a usual distance of their own: theirs is the median
    of the other classes'."""
    mirrored: bool
    """Whether mirror images were looked for too."""

    def provenance(self, class_names: Sequence[str]) -> dict[str, Value]:
        """Return how they were looked for."""
        return {
            "copies_mirrored": self.mirrored,
            "copies_pooled": ", ".join(class_names[c] for c in self.pooled) or None,
        }

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
        mirrored: look for mirror images too: for models that were trained on flipped images.

    Raises:
        DataProblem: no class with `MIN_IMAGES` different images.
    """

    def __init__(
        self, images: Pixels, labels: Ints, fingerprint: str, mirrored: bool = False
    ) -> None:
        self.images, self.labels = images, labels
        self.fingerprint, self.mirrored = fingerprint, mirrored
        usual, self.pooled = _usual_distances(images, labels)
        self.usual = np.array([usual[c] for c in labels.tolist()])
        """(m,) usual distance of each image's class."""

    def find_nearest(self, generated: Pixels) -> tuple[Ints, Floats]:
        """Return the index of the training image that each image is nearest to, and its ratio.

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
        nearest, squares = _nearest(generated, self.images, self.usual)
        if self.mirrored:
            flipped, its_squares = _nearest(generated[..., ::-1], self.images, self.usual)
            nearest = np.where(its_squares < squares, flipped, nearest)
            squares = np.minimum(squares, its_squares)
        return nearest, np.sqrt(squares)


def _usual_distances(train: Pixels, labels: Ints) -> tuple[dict[int, float], tuple[int, ...]]:
    """Return the usual distance of each class, and the classes that have that of the others.

    It is the median distance of a class's images to their nearest different one. Copies within the training set do not count: half a class in duplicate would make it 0.
    """
    usual, few = {}, []
    for c in np.unique(labels).tolist():
        images = train[labels == c]
        squares = _nearest(images, images)[1]
        squares = squares[np.isfinite(squares)]
        if len(squares) >= MIN_IMAGES:
            usual[c] = float(np.median(np.sqrt(squares)))
        else:
            few.append(c)
    if not usual:
        raise DataProblem(
            f"no class has {MIN_IMAGES} different training images: no distance is usual",
            "leave memorisation out of evaluation.metrics",
        )
    pooled = float(np.median(list(usual.values())))
    return usual | dict.fromkeys(few, pooled), tuple(few)


def _nearest(images: Pixels, others: Pixels, scales: Floats | None = None) -> tuple[Ints, Floats]:
    """Return the index of and the squared distance to each image's nearest, (n,) and (n,).

    Pixels are whole numbers, and so is every sum here, below 2^53: the distances are exact in
    float64, and that of a copy is 0. They are computed on the GPU where there is one.

    Args:
        images: uint8 (n, C, H, W).
        others: uint8 (m, C, H, W).
        scales: (m,), by which distances to the others are divided; None: they are not, and those that
            are the same image are skipped, infinite where all are.
    """
    device = choose_device()
    nearest = torch.zeros(len(images), dtype=torch.int64, device=device)
    squares = torch.full((len(images),), torch.inf, dtype=torch.float64, device=device)
    for rows, x, x_squares in _blocks(images):
        for columns, y, y_squares in _blocks(others):
            block = x @ y.T  # |x - y|^2 = |x|^2 + |y|^2 - 2 x·y, (rows, columns)
            block.mul_(-2).add_(x_squares[:, None]).add_(y_squares)
            if scales is None:
                block[block == 0] = torch.inf
            else:
                block /= to_device(scales[columns]).square()
            least, closest = block.min(1)
            closer = least < squares[rows]
            nearest[rows] = torch.where(closer, closest + columns.start, nearest[rows])
            squares[rows] = torch.where(closer, least, squares[rows])
    return nearest.cpu().numpy(), squares.cpu().numpy()


def _blocks(images: Pixels) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield rows, the pixels of their images (rows, C·H·W), and the sums of their squares (rows,)."""
    size = int(np.prod(images.shape[1:]))
    step = min(ROWS, max(1, BYTES // (8 * size)))
    for start in range(0, len(images), step):
        x = to_device(images[start : start + step].reshape(-1, size))
        yield slice(start, start + len(x)), x, x.square().sum(1)


def compute(
    generated: Sample, _real: Sample, settings: MemorisationConfig, _seed: int
) -> dict[str, Floats]:
    """Return `copies`: the share of generated images that are near copies, in [0, 1].

    Nothing where the images were not compared with training images.
    """
    if generated.copy_ratios is None:
        return {}
    flagged = generated.copy_ratios < settings.copy_ratio
    return {"copies": flagged.astype(float) @ generated.weights / len(generated)}


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
                "share of generated images much nearer to a training image than training images are "
                "to each other.",
            ),
        )
    },
    compute=compute,
    settings=MemorisationConfig,
    provenance=lambda settings: {
        "copies": f"closer than {settings.copy_ratio:g} of the usual distance, in pixels"
    },
    compared={"copies": "near copies are judged otherwise"},
    compared_for_outputs=("train", "copies_mirrored"),
    for_few_images=True,
    fewest=lambda _settings, _classes: 1,
    generated_alone=True,
    needs_nearest=True,
)
