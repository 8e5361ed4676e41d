"""The whole typed experiment: training, resources, storage, evaluation and tuning."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from ...trainers.classification.config import ClassificationConfig
from ...trainers.config import Config
from ...trainers.errors import CheckpointProblem
from ...trainers.sampling import SamplingConfig
from ...trainers.trainer_config import TrainerConfig
from ..evaluation.config import EvaluationConfig
from ..foundation.names import LONGEST, NAME
from ..foundation.settings import setting
from ..storage.config import ENDPOINT_VARIABLES, StorageConfig, default_uri
from ..storage.config import VARIABLE as STORAGE_VARIABLE
from .balancing import BalancingConfig
from .errors import problem
from .layers import Layer, Resolved, parse_override, resolve
from .recipes import recipe_layers
from .scaling import ScalingConfig, shown_sizes
from .tracking import VARIABLE as TRACKING_VARIABLE
from .tracking import TrackingConfig


class EarlyStopConfig(Config):
    """Asynchronous successive halving (Li et al. 2020) on the validation loss at checkpoints."""

    min_images: int = Field(ge=1)
    """Images seen at the first rung."""
    reduction_factor: int = Field(3, ge=2)
    """At each rung one trial in this many continues; rungs are this factor of images apart."""


class TuningConfig(Config):
    """Budget and sampler of a sweep."""

    trials: int = Field(12, ge=1)
    """Trainings of the search; baselines are trained in addition."""
    concurrent: int | None = Field(None, ge=1)
    """Trainings at a time. None: as many as the cluster has room for at the start. Give a number on
    a cluster with autoscaling."""
    sample_points: int = Field(12, ge=1)
    """Points of the sample level (guidance) evaluated on each finished checkpoint."""
    seed: int = Field(0, ge=0)
    early_stop: EarlyStopConfig | None = None


class Experiment(TrainerConfig):
    """One training with everything around it; saved as a whole with every run."""

    name: str = Field(pattern=NAME, max_length=LONGEST)
    """The name of the trained model, also in the registry."""
    keep_checkpoints: int = Field(2, ge=1)
    evaluation: EvaluationConfig = EvaluationConfig()
    balancing: BalancingConfig = BalancingConfig()
    classification: ClassificationConfig = ClassificationConfig()
    scaling: ScalingConfig = ScalingConfig()
    storage: StorageConfig = Field(default_factory=StorageConfig)
    tracking: TrackingConfig = TrackingConfig()
    tuning: TuningConfig = TuningConfig()

    @property
    def effective_sampling(self) -> SamplingConfig:
        """How images are generated; two experiments in which it is equal generate the same ones."""
        return self.sampling.effective(self.process, self.evaluation.groups)

    @property
    def evaluation_workers(self) -> int | Literal["all"]:
        """How many processes evaluate: by default as many as train."""
        return self.evaluation.workers or self.scaling.workers

    @property
    def effective_classification(self) -> ClassificationConfig:
        """How classifiers of its images are trained."""
        given = self.classification
        if given.flip is not None:
            return given
        return given.model_copy(update={"flip": self.data.flip or self.augmentation.flips})

    @property
    def for_classifiers(self) -> Experiment:
        """The same, compared with real images that were not trained on: what classifiers are tested on."""
        reference = self.evaluation.reference and self.evaluation.reference.for_classifiers
        evaluation = self.evaluation.model_copy(update={"reference": reference})
        data = self.data.for_classifiers
        return self.model_copy(update={"data": data, "evaluation": evaluation})

    @model_validator(mode="after")
    def _one_reference(self) -> Experiment:
        if self.data.validation is not None and self.evaluation.reference is not None:
            raise ValueError(
                "data.validation sets training images apart to compare with, and evaluation.reference gives "
                "others: set one of them to null"
            )
        return self

    @model_validator(mode="after")
    def _classifiers_are_tested_on_others(self) -> Experiment:
        own = self.data.validation is None and self.evaluation.reference is None
        tested_on = getattr(self.data, "reference", None) if own else None
        if self.evaluation.trains_classifiers and tested_on == "train":
            raise ValueError(
                "classification among evaluation.metrics would test classifiers on images that they are trained "
                "on (data.reference=train): set data.reference=test"
            )
        return self

    @model_validator(mode="after")
    def _batch_divides_among_workers(self) -> Experiment:
        batch, sizes = self.training.batch_size, self.scaling.sizes
        if self.scaling.min_workers and any(batch % size for size in sizes):
            raise ValueError(
                f"training.batch_size {batch} cannot be divided among each of "
                f"{shown_sizes(sizes)} workers: give a multiple of {math.lcm(*sizes)}, or another "
                "scaling.min_workers or scaling.elastic_step"
            )
        return self


WHERE_DATA_LIE = (
    "data.download",
    "data.path",
    "data.reference_list",
    "data.root",
    "data.train_list",
)
"""Keys that say where the images are. They may change: what counts is which images they are, and
that is compared."""

CHANGEABLE_ON_RESUME = (
    *WHERE_DATA_LIE,
    "balancing.",
    "classification.",
    "engine.",
    "evaluation.",
    "keep_checkpoints",
    "name",
    "sampling.",
    "scaling.",
    "storage.",
    "tracking.",
    "training.checkpoint_every_images",
    "training.checkpoint_every_s",
    "training.images",
    "training.micro_batch",
    "training.preview_every_images",
    "training.report_every_images",
    "training.report_every_s",
    "training.validation_images",
    "tuning.",
)
"""Keys (or their prefixes) that may differ when a run is resumed: they decide where, how fast and
how long it runs, not what it learns."""


SETTINGS = (
    ("storage.uri", "storage", (STORAGE_VARIABLE,)),
    ("storage.endpoint_url", "endpoint", ENDPOINT_VARIABLES),
    ("tracking.uri", "tracking", (TRACKING_VARIABLE,)),
)
"""Keys, their names in settings files, and the environment variables that come before these."""


def load_experiment(
    recipe: str | Layer, overrides: list[str], extra: list[Layer] | None = None
) -> Resolved[Experiment]:
    """Resolve a recipe, then `extra` layers, then `key=value` overrides.

    Args:
        recipe: its name or file, or its values.

    Raises:
        UsageProblem: no such recipe, an override without `=`, an unknown key, a wrong value.
    """
    given = [recipe] if isinstance(recipe, Layer) else recipe_layers(recipe)
    layers = [*_defaults(), *given, *(extra or []), *map(parse_override, overrides)]
    return resolve(Experiment, layers)


def _defaults() -> Iterator[Layer]:
    """Yield what holds where nothing else is given, with its origin: settings files and WHIPRAY_STORAGE."""
    for key, name, variables in SETTINGS:
        if any(os.environ.get(variable) for variable in variables):
            if key == "storage.uri":  # the default anyway; here it is also the origin that is shown
                yield Layer(STORAGE_VARIABLE, {key: default_uri()})
        elif given := setting(name, *variables):
            yield Layer(str(given.file), {key: given.value})


def read_experiment(config: Mapping[str, Any], where: str) -> Experiment:
    """Return the experiment that a checkpoint or a sweep holds.

    Args:
        where: its address, for the message.

    Raises:
        CheckpointProblem: another version of Whipray wrote it, whose config has other keys or values.
    """
    try:
        return Experiment.model_validate(config)
    except ValidationError as error:
        raise CheckpointProblem(
            f"{where}: made by another version of whipray: {problem(error, Experiment).what}",
            "use the version that made it, or a newer one",
        ) from error


def with_values(experiment: Experiment, values: dict[str, Any], origin: str) -> Experiment:
    """Return the experiment with other values of these dotted keys, validated again."""
    return resolve(
        Experiment, [Layer("base", experiment.model_dump(mode="json")), Layer(origin, values)]
    ).value
