"""f_0 trained on a worker of the cluster, which may have a GPU that this machine lacks."""

from __future__ import annotations

from functools import partial

from ..compute.capacity import with_gpu_if_any
from ..compute.ray_session import run_on_worker
from ..config.experiment import Experiment
from ..generation.loading import load_splits
from ..storage.store import Storage
from .classifiers import OnPhase
from .f0 import load_f0


def train_f0_on_worker(root: Storage, experiment: Experiment, on_phase: OnPhase) -> None:
    """Train f_0 on one worker, unless the store has it, and keep it there.

    It has to be called within a Ray session.

    Args:
        root: the store's top.
        experiment: its `data`, `classification` and `scaling` count.

    Raises:
        Problem: as `load_f0`, or the worker was lost too often.
    """
    from ..compute.progress_queue import QueueReporter, message_queue  # imports Ray

    scaling = with_gpu_if_any(experiment.scaling)
    with message_queue(on_phase) as queue:
        work = partial(_train, root, experiment, QueueReporter(queue))
        run_on_worker(scaling, work, max_retries=scaling.max_failures)


def _train(root: Storage, experiment: Experiment, on_phase: OnPhase) -> None:
    splits = load_splits(experiment.for_classifiers, root)
    load_f0(root, splits, experiment.effective_classification, on_phase)
