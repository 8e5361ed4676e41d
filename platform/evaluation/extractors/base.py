"""The contract of a feature extractor: uint8 images in, features and class logits out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ....trainers.errors import DataProblem
from ..arrays import Floats32, Pixels

Value = str | int | float | bool | None
OnPhase = Callable[[str], None]
"""Takes a line about what is being done, to be shown."""


@dataclass(frozen=True)
class ExtractorInfo:
    """Describes an extractor, in the provenance of every result that it was used for."""

    name: str
    hash: str
    """16 hex digits over weights and preprocessing: values compare only within one hash."""
    dimensions: int
    """Length of a feature vector."""
    preprocessing: str
    """What happens to an image before the first layer, in words."""
    class_names: tuple[str, ...] | None
    """The classes of its logits where those are the data set's own; None for other classes."""
    facts: Mapping[str, Value] = field(default_factory=dict)
    """Further facts for the reader: what it was trained on, its accuracy, its layer."""
    own: ExtractorInfo | None = None
    """The second network, whose logits are of the data set's own classes, where there is one."""

    @property
    def label_network(self) -> ExtractorInfo | None:
        """The network whose logits are of the data set's own classes; None where there is none."""
        return self if self.class_names is not None else self.own

    @property
    def key(self) -> str:
        """What the extracted values depend on: the hash, or those of both networks."""
        return self.hash if self.own is None else f"{self.hash}-{self.own.hash}"


@dataclass(frozen=True)
class Extracted:
    """Features and logits of N images."""

    features: Floats32  # (N, d)
    logits: Floats32  # (N, K), before the softmax
    own_logits: Floats32 | None = None
    """(N, classes) of the data set's own classes, where a second network gives them."""


class Extractor(ABC):
    """Turns images into features; made by `extractors.build_extractor`.

    A subclass sets its info and number of logits, and implements `_extract`. Its inputs and outputs
    are checked here, in the same way for all.
    """

    info: ExtractorInfo
    num_logits: int
    """K, the classes that its last layer tells apart; 0 for a network that knows none."""
    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width) of the images that it takes; None: grey or RGB of any size."""

    def extract(self, images: Pixels, batch_size: int = 256) -> Extracted:
        """Return features and logits of uint8 images (N, C, H, W) with values 0 to 255.

        The same image gives the same values whatever it is batched with, up to rounding.

        Raises:
            DataProblem: images of another type or shape than the extractor takes, or features or
                logits that are not finite.
        """
        self._check_images(images)
        features = np.empty((len(images), self.info.dimensions), np.float32)
        logits = np.empty((len(images), self.num_logits), np.float32)
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            features[rows], logits[rows] = self._extract(images[rows])
            self._check_finite(features[rows], logits[rows], start)
        return Extracted(features, logits)

    @abstractmethod
    def _extract(self, images: Pixels) -> tuple[Floats32, Floats32]:
        """Return features (n, d) and logits (n, K) of one batch of checked images."""

    def _check_images(self, images: Pixels) -> None:
        taken = self.image_shape
        fits = images.dtype == np.uint8 and images.ndim == 4 and 0 not in images.shape[1:]
        if fits and (images.shape[1:] == taken if taken else images.shape[1] in (1, 3)):
            return
        takes = ", ".join(map(str, taken or ("1 or 3", "height", "width")))
        raise DataProblem(
            f"images are {images.dtype} {images.shape}, {self.info.name} takes uint8 (N, {takes})",
            "give images with channels first and values 0 to 255"
            + (", of the reference's size" if taken else ""),
        )

    def _check_finite(self, features: Floats32, logits: Floats32, first: int) -> None:
        fine = np.isfinite(features).all(1) & np.isfinite(logits).all(1)
        if not fine.all():
            raise DataProblem(
                f"{self.info.name} ({self.info.hash}) gives features or logits that are not "
                f"finite, first for image {first + int(fine.argmin())}",
                "check the extractor's weights: they are damaged, or those of another network",
            )
