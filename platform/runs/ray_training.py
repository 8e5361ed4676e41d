"""Training on several Ray Train workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from ...trainers.disk import DiskProblem
from ...trainers.errors import DataProblem, Problem
from ...trainers.hooks import Progress
from ..compute.ray_train import run_on_workers
from ..config.experiment import Experiment
from ..foundation.logs import quiet_logs
from ..storage.checkpoints import CheckpointStore
from ..storage.store import Storage
from ..tracking.mlflow_runs import Run
from .local_training import LESS_MEMORY, ReportCallback, TrainingResult, train_in_process_group


def log_report(run: Run, progress: Progress) -> None:
    """Write a report to MLflow, in the process of Ray Train's controller: a run has one writer."""
    run.log_metrics(progress.metrics, progress.images_seen)
    if progress.images_seen < progress.total_images:
        # The controller's process may be lost at any time, and the training goes on.
        run.flush_best_effort()
    else:  # the last report
        run.flush()


def train_on_workers(
    experiment: Experiment,
    run: Storage,
    callbacks: Sequence[Any],
    on_report: ReportCallback = lambda _progress: False,
) -> TrainingResult:
    """Train on `scaling.workers` Ray Train workers; lost ones come back at the last checkpoint.

    Args:
        experiment: what to train.
        run: the run's folder in the store.
        callbacks: run by Ray Train's controller; reports reach them as the fields of `Progress`.
        on_report: called by worker 0 with each report; pickled, so it holds handles, not state.

    Raises:
        Problem: what stopped the workers, in one line.
        UsageProblem: more of them than this machine, if there is no other, has room for.
    """
    trained: TrainingResult = run_on_workers(
        _worker,
        {"experiment": experiment.model_dump(mode="json"), "run": run, "on_report": on_report},
        experiment.scaling,
        callbacks,
        name="train",
        less_memory=LESS_MEMORY,
        again="goes on from the last checkpoint",
        progress=CheckpointStore(run).latest,
    )
    return trained


def _worker(config: dict[str, Any]) -> TrainingResult | Problem:
    """Train as one Ray Train worker.

    Returns:
        the result, or the problem that all workers share.

    Raises:
        Problem: images that this worker alone may be unable to read. The others wait for it, until Ray ends them
            for what is raised.
    """
    from ray import train

    from ..compute.process_group import meet_workers

    quiet_logs()
    on_report: ReportCallback = config["on_report"]
    experiment = Experiment.model_validate(config["experiment"])
    peers = meet_workers(experiment.scaling)
    workers = float(peers.size)

    def report(progress: Progress) -> bool:
        train.report(asdict(replace(progress, metrics={**progress.metrics, "workers": workers})))
        return peers.rank == 0 and on_report(progress)

    notices: set[tuple[str, ...]] = set()

    def preemption_noticed() -> bool:
        """Return True once for each set of hosts that is about to be taken away."""
        info = train.get_preemption_info()
        if info is None or (hosts := tuple(info.preempted_node_ids)) in notices:
            return False
        notices.add(hosts)
        return True

    try:
        return train_in_process_group(
            experiment, config["run"], report, preemption_noticed, peers=peers
        )
    except (DataProblem, DiskProblem):
        raise
    except Problem as problem:
        return problem
