"""Trainings in `Workers(joined=False)`: they begin their process group themselves, as Ray Train's do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch.distributed as dist

from whipray.platform.config.experiment import Experiment
from whipray.trainers.data import Digits, Splits
from whipray.trainers.data.progress import OnPhase
from whipray.trainers.errors import DataProblem

from .training import Done, train
from .workers import peers as workers_of


def train_late(experiment: Experiment, folder: Path, rank: int, seconds: float) -> Done:
    """Train where one worker takes so long to read the images."""
    return _train(experiment, folder, rank, lambda: time.sleep(seconds))


def train_without_data(experiment: Experiment, folder: Path, rank: int) -> Done:
    """Train where one worker cannot read the images."""

    def fail() -> None:
        raise DataProblem("no images here", "mount them")

    return _train(experiment, folder, rank, fail)


def _train(experiment: Experiment, folder: Path, rank: int, before: Callable[[], None]) -> Done:
    load, peers = Digits.load, workers_of(experiment.scaling)

    def load_on_worker(self: Digits, cache: Path, on_phase: OnPhase) -> Splits:
        assert not dist.is_initialized()
        if peers.rank == rank:
            before()
        return load(self, cache, on_phase)

    with patch.object(Digits, "load", load_on_worker):
        done = train(experiment, folder, peers=peers)
    dist.destroy_process_group()
    return done
