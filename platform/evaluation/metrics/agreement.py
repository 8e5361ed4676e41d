"""Label agreement: the share of generated images classified as the class asked for; higher is better.

The classifier has been trained on real images only: the classification accuracy score (Ravuri &
Vinyals, NeurIPS 2019) turned round. It is defined only where the extractor's logits are the data
set's own classes.
"""

from __future__ import annotations

from ..arrays import Floats
from ..bootstrap import Sample
from .base import SHARE, Metric, MetricOutput, NoSettings, Note


def compute(
    generated: Sample, _real: Sample, _settings: NoSettings, _seed: int
) -> dict[str, Floats]:
    """Return `agreement`: the mean over images, in [0, 1]."""
    right = generated.logits.argmax(1) == generated.labels  # (n,)
    return {"agreement": right.astype(float) @ generated.weights / len(generated)}


METRIC = Metric(
    name="agreement",
    outputs={
        "agreement": MetricOutput(
            "Label agreement",
            "higher",
            3,
            "proportion",
            SHARE,
            Note(
                "Label agreement",
                "share of generated images that the extractor takes for the class that was asked "
                "for, after the classification accuracy score (Ravuri & Vinyals, NeurIPS 2019).",
            ),
        )
    },
    compute=compute,
    settings=NoSettings,
    for_few_images=True,
    fewest=lambda _settings, _classes: 1,
    generated_alone=True,
    needs_own_classes=True,
)
