"""A barely trained model whose images fill classes up."""

from __future__ import annotations

from pathlib import Path

from support.training import at, train

from whipray.platform.balancing.filling import ImageSource
from whipray.platform.config.experiment import Experiment
from whipray.platform.runs.image_source import image_source
from whipray.platform.storage.checkpoints import CheckpointStore


def trained_source(experiment: Experiment, folder: Path) -> ImageSource:
    """Train the run `tiny` in a store, and return what generates its images."""
    train(experiment, folder / "runs/tiny")
    store = at(folder).child("runs/tiny")
    checkpoint = CheckpointStore(store).latest()
    assert checkpoint is not None
    return image_source(experiment, store, checkpoint)
