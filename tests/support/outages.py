"""Trainings whose store or tracking server fails in the middle."""

from __future__ import annotations

import time
from pathlib import Path

import torch.distributed as dist

from whipray.platform.config.experiment import Experiment
from whipray.platform.runs.local_training import train_in_process_group
from whipray.platform.storage.store import Storage
from whipray.trainers.hooks import Progress


def train_until_asked_to_wait(
    experiment: Experiment, run: Storage, pause_at: int, request: Path
) -> list[float]:
    """Train, and return the losses of all reports.

    At the report of `pause_at` images, worker 0 makes the file `request`; all workers continue when
    the file is deleted.
    """
    losses = []

    def on_report(progress: Progress) -> bool:
        losses.append(progress.metrics["loss/total"])
        if progress.images_seen == pause_at and dist.get_rank() == 0:
            request.touch()
            while request.exists():
                time.sleep(0.01)
        return False

    run.try_write()
    train_in_process_group(experiment, run, on_report)
    return losses
