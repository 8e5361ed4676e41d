"""Classification as a measure of generated images: does training on them help on real ones?

A ResNet-32 is trained on long-tailed images, or on these and generated ones, by the recipe of
LDAM-DRW (Cao et al. 2019), and tested on balanced real images: CBDM table 4, and what DiffuLT does
with its images.
"""

from __future__ import annotations

from .fit import Outcome, train_and_test
from .recipe import ClassificationConfig
from .resnet32 import ResNet32
from .scores import Scores, score

__all__ = ["ClassificationConfig", "Outcome", "ResNet32", "Scores", "score", "train_and_test"]
