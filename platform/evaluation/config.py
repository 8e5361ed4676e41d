"""What one evaluation does: which images, which measures, how sure."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from ...trainers.config import Config
from ...trainers.data import DataConfig
from .extractors.config import AnyExtractor, ClassifierConfig
from .groups import GroupsConfig

MetricName = Literal[
    "kid", "fid", "inception_score", "precision_recall", "prd", "agreement", "memorisation"
]
ALL_METRICS: tuple[MetricName, ...] = get_args(MetricName)
METRIC_OF: dict[str, MetricName] = {
    "kid": "kid",
    "fid": "fid",
    "inception_score": "inception_score",
    "precision": "precision_recall",
    "recall": "precision_recall",
    "f_8": "prd",
    "f_1_8": "prd",
    "agreement": "agreement",
    "copies": "memorisation",
}
"""Numbers that models can be ordered by, and what measures them."""
LOWER_IS_BETTER = ("kid", "fid", "copies")


class EvaluationConfig(Config):
    """Settings of an evaluation; two reports are comparable only if they agree on most of them."""

    images_per_class: int = Field(40, ge=2)
    """Images generated for every class, the same for head and tail. 40 takes seconds for ten small
    classes and shows large differences; 500 and more are worth their time for a final result."""

    metrics: tuple[MetricName, ...] = Field(
        ("kid", "fid", "precision_recall", "agreement"), min_length=1
    )
    """What is measured with every training. `whipray evaluate` measures everything: `prd` fits
    k-means ten times, `inception_score` tells little on small data, `memorisation` reads the
    training images."""

    reference: DataConfig | None = None
    """Where the real images come from; None: the training's own data. Of whatever source, its
    reference split is used; the classes and their order must be the model's. Where one class has over
    1.2 times the images of another, all are cut to the smallest: samples are balanced too."""

    features: AnyExtractor = ClassifierConfig()
    """What makes features of images."""

    groups: GroupsConfig = GroupsConfig()
    """How classes are divided into many, medium and few."""

    min_real: int = Field(300, ge=2)
    """Real and generated images from which a single class gets every measure; below it gets KID and
    label agreement only, since the others are biased by more than they measure."""

    bootstrap_resamples: int = Field(200, ge=20)
    """Resamples behind each interval. 200 put the ends of a 95 % interval at the 5th draw."""

    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    """Level of every interval."""

    recall_k: int = Field(5, ge=1)
    """Neighbours that set a ball's radius in recall and precision; CBDM uses 5, others use 3."""

    kid_subsets: int = Field(100, ge=1)
    """Subsets behind `kid_subsets`, KID as it is published."""

    kid_subset_size: int = Field(1000, ge=2)
    """Images a side in each; with fewer images there is no `kid_subsets`."""

    inception_splits: int = Field(10, ge=1)
    """Parts of the images over which the Inception Score is averaged."""

    prd_clusters_per_class: int = Field(20, ge=1)
    """Clusters of PRD's histograms, for each class; 20 as CBDM."""

    prd_runs: int = Field(10, ge=1)
    """Seeded runs of k-means over which F_8 and F_1/8 are averaged."""

    copy_ratio: float = Field(0.4, gt=0, lt=1)
    """A generated image is a near copy if its nearest training image of its class is closer, in
    pixels, than this part of the usual distance between that class's training images and their
    nearest others. On CIFAR-10 0.4 finds all copies with noise of up to 10 grey levels, and takes
    0.12 % of fresh images for one."""

    seed: int = Field(0, ge=0)
    """Of resampling, subsets, splits and k-means: the same images and seed give the same numbers."""

    batch_size: int = Field(256, ge=1)
    """Images that go through the extractor at a time; changes memory and speed only."""

    shard_images: int = Field(512, ge=1)
    """About how many images are drawn and kept together: what a lost worker does again."""

    workers: Annotated[int, Field(ge=1)] | Literal["all"] = 1
    """Processes that draw images and make features. 1: the calling one; more, or `all` that the
    cluster has room for, run on Ray. The images do not depend on it."""

    keep_samples: bool = True
    """Keep images and features, so that other measures need no new images. When a search over
    guidance ends, those of the other settings that it tried are deleted all the same."""

    rank_by: str = Field(
        "kid/overall", pattern=rf"^({'|'.join(METRIC_OF)})/(overall|many|medium|few)$"
    )
    """The number that orders models. KID, for its estimate has no bias from the number of images."""

    @model_validator(mode="after")
    def _ranks_by_what_it_measures(self) -> Self:
        needed = METRIC_OF[self.rank_by.partition("/")[0]]
        if needed not in self.metrics:
            raise ValueError(f"rank_by {self.rank_by} needs {needed} among evaluation.metrics")
        return self

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """Whether a lower or a higher `rank_by` is better."""
        return "minimize" if self.rank_by.partition("/")[0] in LOWER_IS_BETTER else "maximize"
