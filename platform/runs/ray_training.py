"""Training on several Ray Train workers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any
from uuid import uuid4

from ...trainers.errors import OutOfMemoryProblem, Problem
from ...trainers.hooks import Progress
from ...trainers.memory import says_lack_of_memory
from ...trainers.scratch import Scratch
from ..compute.capacity import cluster_capacity, is_single_machine, no_room, waited_in_vain
from ..config.experiment import Experiment, ScalingConfig
from ..foundation.background import in_background
from ..foundation.logs import quiet_logs
from ..foundation.text import last_line
from ..storage.store import Storage
from ..tracking.mlflow_runs import Run
from .local_training import LESS_MEMORY, ReportCallback, TrainingResult, train_in_process_group

WAIT_FOR_RESOURCES_S = 86_400
"""How long workers wait for room in the cluster, in all: a day, in which a lost host is replaced, or the
trainings before this one in a sweep end. A wait costs nothing; giving up too early costs the run."""

NODE_LOSS_DETECTION_S = 20
"""How long Ray may need to notice that a host is gone: 15 s with the health checks of `infra/settings.env`."""

REGROW_INTERVAL_S = 60.0
"""How often a training with fewer workers than it wants looks for room. Growing costs what came after
the last checkpoint."""

CONTROLLER_POLL_S = 0.2
"""How often Ray Train's controller fetches reports; a worker waits until then. At the default of Ray
2.60, 2 s, twenty reports cost forty seconds."""

PREEMPTION_POLL_S = 1
"""How often Ray Train looks for notices of preemption. Its default takes up to 5 of the 30 s that a cloud
may give."""


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
    scaling = experiment.scaling
    room = cluster_capacity(scaling.cpus_per_worker, scaling.gpus_per_worker)
    if is_single_machine() and room < scaling.required_workers:  # waiting would not help
        raise no_room(scaling, room, "this machine")
    _set_timeouts(scaling)
    with Scratch() as bookkeeping:
        trainer = _trainer(experiment, run, callbacks, on_report, bookkeeping)
        try:
            # Not in the main thread, where Ray Train 2.60 handles SIGINT itself and ends at once.
            result: Any = in_background(trainer.fit).result()
        except Exception as error:
            raise _as_problem(error, scaling) from error
    outcome = result.return_value
    if isinstance(outcome, Problem):
        raise outcome
    trained: TrainingResult = outcome
    return trained


def _set_timeouts(scaling: ScalingConfig) -> None:
    """Set the intervals that Ray Train 2.60 reads from the environment only."""
    # Workers wait for room: a lost host comes back, an autoscaler starts another one, the trainings
    # before this one in a sweep end. Ray Train counts a wait in vain as one of the failures. Where
    # fewer workers will do, they wait until Ray knows which hosts are left, and that is not counted.
    wait_s = (
        NODE_LOSS_DETECTION_S
        if scaling.min_workers
        else WAIT_FOR_RESOURCES_S // (scaling.max_failures + 1)
    )
    for name, seconds in {
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": wait_s,
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": CONTROLLER_POLL_S,
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": PREEMPTION_POLL_S,
    }.items():
        os.environ.setdefault(name, str(seconds))


def _trainer(
    experiment: Experiment,
    run: Storage,
    callbacks: Sequence[Any],
    on_report: ReportCallback,
    bookkeeping: str,
) -> Any:
    """Return Ray's trainer.

    Args:
        bookkeeping: a folder for Ray's controller, which runs on this host. Workers, on others
            perhaps, write nothing there: checkpoints go to our own store.
    """
    from ray.train import FailureConfig, RunConfig
    from ray.train import ScalingConfig as Workers
    from ray.train.torch import TorchTrainer

    from ..compute.process_group import WorkerJoinedTorchConfig

    scaling = experiment.scaling
    resources: dict[str, float] = {"CPU": scaling.cpus_per_worker}
    if scaling.gpus_per_worker > 0:
        resources["GPU"] = scaling.gpus_per_worker
    workers: Any = (
        (scaling.required_workers, scaling.workers) if scaling.min_workers else scaling.workers
    )
    loop: Any = _worker
    return TorchTrainer(
        loop,
        train_loop_config={
            "experiment": experiment.model_dump(mode="json"),
            "run": run,
            "on_report": on_report,
        },
        scaling_config=Workers(  # type: ignore[call-arg]
            num_workers=workers,
            elastic_resize_monitor_interval_s=REGROW_INTERVAL_S,
            use_gpu=scaling.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        torch_config=WorkerJoinedTorchConfig(),
        run_config=RunConfig(
            name=f"train-{uuid4().hex[:12]}",
            storage_path=bookkeeping,
            failure_config=FailureConfig(  # type: ignore[call-arg]
                max_failures=scaling.max_failures,
                # In Ray 2.60 a lost host may show as workers that do not start, which counts here.
                controller_failure_limit=-1 if scaling.min_workers else scaling.max_failures,
            ),
            callbacks=list(callbacks),
        ),
    )


def _worker(config: dict[str, Any]) -> TrainingResult | Problem:
    """Train as one Ray Train worker.

    Returns:
        the result, or the problem that all workers share: raised, it would be retried.
    """
    from ray import train

    from ..compute.process_group import join_process_group

    quiet_logs()
    on_report: ReportCallback = config["on_report"]
    experiment = Experiment.model_validate(config["experiment"])
    join_process_group("nccl" if experiment.scaling.gpus_per_worker else "gloo")
    context = train.get_context()
    rank, workers = context.get_world_rank(), float(context.get_world_size())

    def report(progress: Progress) -> bool:
        train.report(asdict(replace(progress, metrics={**progress.metrics, "workers": workers})))
        return rank == 0 and on_report(progress)

    notices: set[tuple[str, ...]] = set()

    def preemption_noticed() -> bool:
        """Return True once for each set of hosts that is about to be taken away."""
        info = train.get_preemption_info()
        if info is None or (hosts := tuple(info.preempted_node_ids)) in notices:
            return False
        notices.add(hosts)
        return True

    try:
        return train_in_process_group(experiment, config["run"], report, preemption_noticed)
    except Problem as problem:
        return problem


def _as_problem(error: Exception, scaling: ScalingConfig) -> Problem:
    """Return Ray's nested errors as one line: what a worker raised."""
    failures = getattr(error, "worker_failures", None) or {}
    for rank, failure in sorted(failures.items()):
        if says_lack_of_memory(str(failure)):
            return OutOfMemoryProblem(
                f"the memory of worker {rank} did not suffice: {last_line(failure)}", LESS_MEMORY
            )
        return Problem(
            f"worker {rank} failed more than {scaling.max_failures} times: {last_line(failure)}",
            "see the Ray log for its traceback; the same command goes on from the last checkpoint",
        )
    inner = getattr(error, "controller_failure", None)
    if type(inner).__name__ == "WorkerGroupStartupTimeoutError":  # Ray 2.60 does not export it
        return waited_in_vain(scaling)
    return Problem(
        f"Ray Train stopped: {last_line(error)}",
        "run `whipray doctor --ray`, then the same command",
    )
