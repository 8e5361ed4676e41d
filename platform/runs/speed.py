"""The speed of earlier runs, by what the time of a step depends on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from ..config.experiment import Experiment
from ..storage import layout
from ..storage.store import Storage
from ..tracking.server import named_uri
from ..tracking.tracker import open_tracker

SPEED = "images_per_second"
"""The metric."""


def step_key(experiment: Experiment) -> str:
    """Return a short hash of what the time of a training step depends on."""
    pretrained = experiment.pretrained
    facts = {
        "data": experiment.data.model_dump(mode="json", include={"source", "image_size"}),
        "model": experiment.model.model_dump(mode="json"),
        "augmentation": experiment.augmentation.name,
        "objective": experiment.objective.name,
        "adapters": bool(pretrained and pretrained.lora),
        "engine": experiment.engine.model_dump(mode="json"),
        "batch": [experiment.training.batch_size, experiment.training.micro_batch],
        "scaling": experiment.scaling.model_dump(
            mode="json", include={"workers", "cpus_per_worker", "gpus_per_worker"}
        ),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Speed:
    """Training speed of an earlier run."""

    images_per_second: float
    run: str
    started: float
    """Seconds since the epoch."""


def latest_speed(experiment: Experiment) -> Speed | None:
    """Return the speed of the latest run with the same step; None if MLflow has none.

    Raises:
        TrackingProblem: MLflow does not answer.
        UsageProblem: as `tracking_uri`.
    """
    storage, tracking = Storage(experiment.storage), experiment.tracking
    is_local = not (tracking.uri or named_uri())
    if (
        is_local
        and storage.is_folder
        and not (Path(storage.path) / layout.MLFLOW_DATABASE).exists()
    ):
        return None  # a query would create it
    tracker = open_tracker(tracking, storage)
    latest = tracker.latest_metric(layout.Tag.STEP, step_key(experiment), SPEED)
    return None if latest is None else Speed(latest.value, latest.run, latest.started)
