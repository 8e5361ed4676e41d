"""No features, for an evaluation whose values come from none."""

from __future__ import annotations

import numpy as np

from ..arrays import Floats32, Pixels
from .base import Extractor, ExtractorInfo


class Nothing(Extractor):
    """Features and logits of no dimension."""

    info = ExtractorInfo("none", "none", 0, "none", None)
    num_logits = 0

    def _extract(self, images: Pixels) -> tuple[Floats32, Floats32]:
        empty = np.empty((len(images), 0), np.float32)
        return empty, empty
