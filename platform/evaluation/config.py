"""Settings of an evaluation: which images, which metrics, which intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, create_model, model_validator

from ...trainers.config import Config
from ...trainers.data import DataConfig
from ...trainers.data.groups import GroupsConfig
from .extractors.config import AnyExtractor, Dinov2Config
from .goal import Goal
from .metrics import METRIC_OF, METRICS, OUTPUTS
from .metrics.base import NoSettings

RANKING = "|".join(name for name, output in OUTPUTS.items() if output.ranks)

# Derived from the registry, which a type checker does not execute.
if TYPE_CHECKING:
    MetricName = str
    MetricSettings = Config
else:
    MetricName = Literal[tuple(METRICS)]
    MetricSettings = create_model(
        "MetricSettings",
        __base__=Config,
        **{
            metric.name: (
                metric.settings,
                Field(metric.settings(), description=metric.settings.__doc__),
            )
            for metric in METRICS.values()
            if metric.settings is not NoSettings
        },
    )
"""A section for each metric that has settings, named as the metric."""


class EvaluationConfig(MetricSettings):
    """Settings of an evaluation; two reports are comparable only if they agree on most of them."""

    images_per_class: int = Field(40, ge=2)
    """Images generated for every class, the same for head and tail. 40 takes seconds for ten small
    classes and shows large differences; 500 and more are worth their time for a final result."""

    metrics: tuple[MetricName, ...] = Field(
        ("kid", "fid", "precision_recall", "agreement"), min_length=1
    )
    """Metrics that are computed after every training. `whipray evaluate` computes all of them: `prd`
    fits k-means ten times, `inception_score` says little on small data, `memorisation` reads the
    training images. `classification` is computed where it is named only: it fills classes up to
    `balancing.to`, trains `balancing.seeds` classifiers by `classification.*` and gives their accuracy on the
    images to compare with. With it alone no features are computed."""

    reference: DataConfig | None = None
    """Where the real images come from; None: the training's own data. Of whatever source, its
    reference split is used, or all images where it has none; the classes and their order must be the
    model's. Every class counts alike however many images it has, as it does in the samples."""

    features: AnyExtractor | None = None
    """The network that turns images into features. None: `imagenet` for colour images of 32 pixels and
    more, else `classifier`."""

    groups: GroupsConfig = GroupsConfig()
    """How classes are divided into many, medium and few."""

    min_real: int = Field(300, ge=2)
    """Real and generated images from which a single class gets every metric; below it gets KID, label
    agreement and near copies only, since the bias of the others exceeds what they measure."""

    bootstrap_resamples: int = Field(200, ge=20)
    """Resamples behind each interval. With 200, the ends of a 95 % interval are at the 5th replicate."""

    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    """Level of every interval."""

    seed: int = Field(0, ge=0)
    """Of resampling, subsets, splits and k-means: the same images and seed give the same values."""

    batch_size: int = Field(256, ge=1)
    """Images that go through the extractor at a time; changes memory and speed only."""

    shard_images: int = Field(512, ge=1)
    """About how many images are generated and kept together: what a lost worker repeats."""

    workers: Annotated[int, Field(ge=1)] | Literal["all"] | None = None
    """Processes that generate images and extract features. None: as many as trained (`scaling.workers`),
    with their CPUs and GPUs, or fewer where this machine has no room for them. 1: the calling one; more, or
    `all` that fit into the cluster, run on Ray. The images do not depend on it."""

    keep_samples: bool = True
    """Keep images and features, so that other metrics need no new images. When a search over
    guidance ends, those of the other settings that it tried are deleted all the same."""

    rank_by: str = Field("kid/overall", pattern=rf"^({RANKING})/(overall|many|medium|few)$")
    """The value that models are ordered by. KID, since its estimate is unbiased at any number of
    images."""

    @model_validator(mode="after")
    def _rank_by_is_computed(self) -> Self:
        needed = METRIC_OF[self.goal.metric].name
        if needed not in self.metrics:
            raise ValueError(f"rank_by {self.rank_by} needs {needed} among evaluation.metrics")
        if METRICS[needed].needs_logits and isinstance(self.features, Dinov2Config):
            raise ValueError(f"rank_by {self.rank_by} needs class logits, which dinov2 has not")
        return self

    @property
    def uses_features(self) -> bool:
        """Whether a metric is computed from features."""
        return any(not METRICS[name].from_classifiers for name in self.metrics)

    @property
    def trains_classifiers(self) -> bool:
        """Whether a metric is the accuracy of classifiers."""
        return any(METRICS[name].from_classifiers for name in self.metrics)

    @property
    def goal(self) -> Goal:
        """What orders models: `rank_by`, and which direction is better."""
        return Goal.parse(self.rank_by)
