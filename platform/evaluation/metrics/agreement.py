"""Label agreement: the share of generated images that a classifier of the real images assigns to
the class that was asked for; higher is better.

The classification accuracy score's idea (Ravuri & Vinyals, NeurIPS 2019) turned round: the
classifier has seen real images only. It is defined only where the extractor's logits are the data
set's own classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bootstrap import Floats, Sample

if TYPE_CHECKING:
    from ..config import EvaluationConfig


def compute(generated: Sample, _real: Sample, _config: EvaluationConfig) -> dict[str, Floats]:
    """`agreement`: the mean over images, in [0, 1]."""
    right = generated.logits.argmax(1) == generated.labels  # (n,)
    return {"agreement": right.astype(float) @ generated.weights / len(generated)}
