"""Label agreement: the share of generated images classified as the class asked for; higher is better.

The classifier has been trained on real images only: the classification accuracy score (Ravuri &
Vinyals, NeurIPS 2019) turned round. It is the feature network itself where that is one of the data
set's own classes, else a small one beside it.
"""

from __future__ import annotations

from ....trainers.classification.small_resnet_config import SmallResNetConfig
from ..arrays import Floats
from ..bootstrap import Sample
from .base import SHARE, Metric, MetricOutput, Note


class AgreementConfig(SmallResNetConfig):
    """The classifier's training, where another network gives the features."""


def compute(
    generated: Sample, _real: Sample, _settings: AgreementConfig, _seed: int
) -> dict[str, Floats]:
    """Return `agreement`: the mean over images, in [0, 1]."""
    assert generated.own_logits is not None
    right = generated.own_logits.argmax(1) == generated.labels  # (n,)
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
                "share of generated images that a classifier of the real images takes for the class "
                "that was asked for, after the classification accuracy score (Ravuri & Vinyals, "
                "NeurIPS 2019): {label_network}.",
            ),
        )
    },
    compute=compute,
    settings=AgreementConfig,
    compared_for_outputs=("agreement_hash",),
    for_few_images=True,
    fewest=lambda _settings, _classes: 1,
    generated_alone=True,
    needs_own_classes=True,
)
