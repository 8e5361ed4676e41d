"""Two networks as one extractor: features of one, logits of the data set's own classes of the other."""

from __future__ import annotations

from dataclasses import replace

from ..arrays import Floats32, Pixels
from .base import Extracted, Extractor


class Labelled(Extractor):
    """The features and logits of an extractor, and `own_logits` of a classifier.

    Label agreement needs logits of the data set's classes, which the published networks have not.
    """

    def __init__(self, features: Extractor, labels: Extractor) -> None:
        self._both = features, labels
        self.info = replace(features.info, own=labels.info)
        self.num_logits, self.image_shape = features.num_logits, features.image_shape

    def extract(self, images: Pixels, batch_size: int = 256) -> Extracted:
        """Return what both give; see `Extractor`."""
        features, labels = (each.extract(images, batch_size) for each in self._both)
        return replace(features, own_logits=labels.logits)

    def _extract(self, images: Pixels) -> tuple[Floats32, Floats32]:
        extracted = self.extract(images)
        return extracted.features, extracted.logits
