"""Trainings whose store or tracking server goes away in the middle."""

from __future__ import annotations

import time
from pathlib import Path

import torch.distributed as dist

from whipray.platform.config.experiment import Experiment
from whipray.platform.runs.local_training import train_in_process_group
from whipray.platform.storage.store import Storage
from whipray.trainers.loop import Progress


def train_until_asked_to_wait(
    experiment: Experiment, run: Storage, pause_at: int, request: Path
) -> list[float]:
    """Train; at the report of `pause_at` worker 0 makes the file `request`, and all of them go on
    when it is gone. The losses of all reports."""
    losses = []

    def tell(progress: Progress) -> bool:
        losses.append(progress.metrics["loss/total"])
        if progress.images_seen == pause_at and dist.get_rank() == 0:
            request.touch()
            while request.exists():
                time.sleep(0.01)
        return False

    run.try_write()
    train_in_process_group(experiment, run, tell)
    return losses
