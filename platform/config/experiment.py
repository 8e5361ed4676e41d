"""The whole typed experiment: what is trained, and where and how it runs."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from ...trainers.config import Config
from ...trainers.trainer_config import TrainerConfig
from ..evaluation.config import EvaluationConfig
from ..storage.config import StorageConfig
from .layers import Layer, Resolved, parse_override, resolve
from .recipes import recipe_layers


class ScalingConfig(Config):
    """Workers of one training."""

    workers: int = Field(1, ge=1)
    """Processes that share each batch. One trains in the calling process; more go through Ray
    Train."""
    min_workers: int | None = Field(None, ge=1)
    """Fewest workers to go on with while the others are lost; they join again when there is room. None:
    a training waits for all."""
    cpus_per_worker: int = Field(1, ge=1)
    gpus_per_worker: float = Field(0, ge=0)
    max_failures: int = Field(3, ge=0)
    """Lost workers after which a training gives up; it goes on from its last checkpoint before."""
    price_per_hour: float = Field(0, ge=0)
    """What one worker costs, in your currency; a launch on a cluster then says what it costs, and
    asks."""

    @property
    def wanted(self) -> str:
        """What a training asks of a cluster, in words."""
        cpus, gpus = self.cpus_per_worker, self.gpus_per_worker
        return f"{self.workers} workers with {cpus} CPUs and {gpus:g} GPUs each"

    @property
    def fewest(self) -> int:
        """Workers without which a training waits."""
        return self.min_workers or self.workers

    @model_validator(mode="after")
    def _fewer(self) -> ScalingConfig:
        if self.fewest > self.workers:
            raise ValueError(
                f"min_workers={self.min_workers} is more than workers={self.workers}: "
                "lower scaling.min_workers"
            )
        return self

    @model_validator(mode="after")
    def _one_gpu_each(self) -> ScalingConfig:
        if self.workers > 1 and self.gpus_per_worker not in (0, 1):
            raise ValueError(
                f"{self.workers} workers with {self.gpus_per_worker:g} GPUs each: NCCL wants one GPU "
                "for each of several workers, so set scaling.gpus_per_worker=1"
            )
        return self


class TrackingConfig(Config):
    """Where MLflow is. A server's password belongs into MLFLOW_TRACKING_PASSWORD, never here."""

    uri: str | None = None
    """None: MLFLOW_TRACKING_URI, or an SQLite file beside the runs."""
    experiment: str = "whipray"
    system_metrics: bool = True
    """CPU, memory, disk, network and GPU figures with every run."""


class EarlyStopConfig(Config):
    """Asynchronous successive halving (Li et al. 2020) on the validation loss at checkpoints."""

    min_images: int = Field(ge=1)
    """First rung."""
    reduction_factor: int = Field(3, ge=2)
    """Share of trials that go on: 1 in so many; also the distance of rungs."""


class TuningConfig(Config):
    """How a sweep spends its trainings."""

    trials: int = Field(12, ge=1)
    """Searched trainings; baselines come on top."""
    concurrent: int | None = Field(None, ge=1)
    """Trainings at once; None: as many as the cluster has room for when they begin. Give a number to a
    cluster that grows on demand."""
    sample_points: int = Field(12, ge=1)
    """Points of the second level (guidance) tried on each finished checkpoint."""
    seed: int = Field(0, ge=0)
    early_stop: EarlyStopConfig | None = None


class Experiment(TrainerConfig):
    """One training with its surroundings; saved whole with every run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Of the model that the training makes, in the registry too."""
    keep_checkpoints: int = Field(2, ge=1)
    evaluation: EvaluationConfig = EvaluationConfig()
    scaling: ScalingConfig = ScalingConfig()
    storage: StorageConfig = StorageConfig()
    tracking: TrackingConfig = TrackingConfig()
    tuning: TuningConfig = TuningConfig()

    @model_validator(mode="after")
    def _shared_evenly(self) -> Experiment:
        sizes, batch = (
            range(self.scaling.fewest, self.scaling.workers + 1),
            self.training.batch_size,
        )
        if self.scaling.min_workers and any(batch % size for size in sizes):
            raise ValueError(
                f"training.batch_size {batch} cannot be shared by each of {sizes[0]} to {sizes[-1]} "
                f"workers: give a multiple of {math.lcm(*sizes)}, or another scaling.min_workers"
            )
        return self


CHANGEABLE_ON_RESUME = (
    "engine.",
    "evaluation.",
    "keep_checkpoints",
    "name",
    "sampling.",
    "scaling.",
    "storage.",
    "tracking.",
    "training.checkpoint_every_images",
    "training.images",
    "training.micro_batch",
    "training.report_every_images",
    "training.validation_images",
    "tuning.",
)
"""Keys that a resumed run may change: where, how fast and how long it runs, not what it learns."""


def load_experiment(
    recipe: str, overrides: list[str], extra: list[Layer] | None = None
) -> Resolved[Experiment]:
    """Recipe, then `extra` layers, then `key=value` overrides."""
    layers = [*recipe_layers(recipe), *(extra or []), *map(parse_override, overrides)]
    return resolve(Experiment, layers)


def with_values(experiment: Experiment, values: dict[str, Any], origin: str) -> Experiment:
    """The experiment with dotted keys changed, checked again."""
    return resolve(
        Experiment, [Layer("base", experiment.model_dump(mode="json")), Layer(origin, values)]
    ).value


def cache_folder() -> Path:
    """Decoded images and feature networks, by content: `WHIPRAY_CACHE` or ~/.cache/whipray."""
    return Path(os.environ.get("WHIPRAY_CACHE", "~/.cache/whipray")).expanduser()
