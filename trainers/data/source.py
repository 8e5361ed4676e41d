"""The contract of a source of images: the common settings, and the two splits that it returns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Literal, Self

import numpy as np

from ..config import Config
from ..errors import DataProblem
from .hold_out import HoldOut
from .long_tail import LongTail, OwnTail
from .packed import PackedImages, check_every_class
from .progress import OnPhase, quiet
from .report import DataReport
from .validation import Validation, choose_validation, hash_pixels

ClassSampling = Literal["natural", "sqrt", "balanced"]


@dataclass(frozen=True, eq=False)
class Splits:
    """The images of one experiment.

    Args:
        train: the training images, already long-tailed.
        reference: real images that generated ones are compared with, of every class.
        report: what was found that is not used as it is.
        available: number of training images before the tail was cut.
        hold_out: by which `reference` was held out of the training images; None where a source gives others.
        validation: by which `reference` was set apart of the training images; None where it was not.
        borrowed: classes whose images in `reference` are their training images, by id.
        train_name: what a message calls a training image, by its number; None where it has no file or row.

    Raises:
        DataProblem: other classes or image shapes in the two, or a class without an image.
    """

    train: PackedImages
    reference: PackedImages
    report: DataReport = field(default_factory=DataReport)
    available: int | None = None
    hold_out: HoldOut | None = None
    validation: Validation | None = None
    borrowed: tuple[int, ...] = ()
    train_name: Callable[[int], str] | None = None

    def __post_init__(self) -> None:
        if self.train.class_names != self.reference.class_names:
            pairs = enumerate(zip_longest(self.train.class_names, self.reference.class_names))
            c, (ours, theirs) = next((c, names) for c, names in pairs if names[0] != names[1])
            raise DataProblem(
                "training and reference images have different classes: "
                f"class {c} is {ours or 'missing'} and {theirs or 'missing'}",
                "give both the same classes in the same order",
            )
        if self.train.image_shape != self.reference.image_shape:
            raise DataProblem(
                f"training images are {self.train.image_shape}, "
                f"reference images {self.reference.image_shape}",
                "give both the same size and channels",
            )
        for where, split in (("training", self.train), ("reference", self.reference)):
            check_every_class(
                split.labels,
                split.class_names,
                f"{where} images",
                "add images of it, or leave the class out",
            )

    def real_images(self) -> PackedImages:
        """Return the images to compare models of other data with: all, where none were set apart for it."""
        if self.hold_out is None:
            return self.reference
        rows = ~np.isin(self.reference.labels, self.borrowed)
        return PackedImages(
            np.concatenate([self.train.images, self.reference.images[rows]]),
            np.concatenate([self.train.labels, self.reference.labels[rows]]),
            self.train.class_names,
        )


class SourceConfig(Config):
    """Where images come from; each source is a subclass with its own `source` tag."""

    long_tail: OwnTail = LongTail(kind="none")
    """The tail to cut out of the training images; by default they are long-tailed already. Of a
    recipe with another source it is not inherited."""
    class_sampling: ClassSampling = "natural"
    """Share of each class in training: natural: by its count; sqrt: by the square root of its count;
    balanced: the same for all."""
    flip: bool = True
    """Mirror half of the training images left to right, as CBDM does."""
    validation: Validation | None = None
    """Training images set apart to choose settings by. They take the place of the images to compare with:
    no test image is used then. None: compare with the source's own reference."""

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images, known without reading them."""

    @abstractmethod
    def load(self, cache: Path, on_phase: OnPhase = quiet) -> Splits:
        """Read both splits.

        Args:
            cache: folder for decoded images; created when needed.
            on_phase: takes lines that say how far it is.

        Raises:
            DataProblem: naming the file, row or line that cannot be used.
        """

    @property
    def for_classifiers(self) -> Self:
        """The same training images, with a reference that has none of them: what classifiers are tested on."""
        return self

    def split(
        self,
        train: PackedImages,
        read_reference: Callable[[], PackedImages],
        available: int | None = None,
    ) -> Splits:
        """Return both splits of images that are in memory: the reference, or what `validation` sets apart.

        Args:
            train: already long-tailed.
            read_reference: is not called where training images take its place.
            available: as in `Splits`.

        Raises:
            DataProblem: a class of which no image can be set apart.
        """
        config = self.validation
        if config is None:
            return Splits(train, read_reference(), available=available)
        mask = choose_validation(hash_pixels(train.images), train.labels, train.class_names, config)
        return Splits(
            train.select(np.flatnonzero(~mask)),
            train.select(np.flatnonzero(mask)),
            DataReport((config.describe(mask, train.labels, train.num_classes),)),
            available=available,
            validation=config,
        )
