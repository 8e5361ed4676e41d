"""Training on several Ray Train workers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any
from uuid import uuid4

from ray.train import UserCallback

from ...trainers.errors import Problem
from ...trainers.loop import Progress
from ...trainers.scratch import Scratch
from ..compute.capacity import cluster_capacity, is_single_machine, no_room, waited_in_vain
from ..config.experiment import Experiment, ScalingConfig
from ..foundation.background import in_background
from ..foundation.logs import quiet_logs
from ..foundation.text import last_line
from ..storage.store import Storage
from ..tracking.mlflow_runs import Run
from .local_training import ReportCallback, TrainingResult, train_in_process_group

PATIENCE_S = 86_400
"""How long workers wait for a place in the cluster, in all."""


NOTICED_S = 20
"""How long Ray may need to notice that a host is gone."""


REGROW_S = 60.0
"""How often a training with fewer workers than it wants looks for room. Growing costs what came after
the last checkpoint."""


class LogProgress(UserCallback):
    """Writes worker 0's reports to MLflow, so that a run has one writer at any time."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def after_report(
        self,
        run_context: Any,  # noqa: ARG002
        metrics: list[dict[str, Any]],
        checkpoint: Any,  # noqa: ARG002
    ) -> None:
        """Worker 0's numbers are global means already."""
        progress = Progress(**metrics[0])
        self.run.log_metrics(progress.metrics, progress.images_seen)
        if progress.images_seen < progress.total_images:
            self.run.flush_best_effort()  # this process, which is not the training's, may be lost
        else:  # it ends soon
            self.run.flush()


def train_on_workers(
    experiment: Experiment,
    run: Storage,
    callbacks: Sequence[Any],
    on_report: ReportCallback = lambda _progress: False,
) -> TrainingResult:
    """Train on `scaling.workers` Ray Train workers; lost ones come back at the last checkpoint.

    Args:
        callbacks: `ray.train.UserCallback`s, run by the controller; reports reach them as the
            fields of `Progress`.
        tell: called by worker 0 with each report; pickled, so it holds handles, not state.

    Raises:
        Problem: what stopped the workers, in one line.
        UsageProblem: more of them than this machine, if there is no other, has room for.
    """
    from ray.train import FailureConfig, RunConfig
    from ray.train import ScalingConfig as Workers
    from ray.train.torch import TorchTrainer

    from ..compute.process_group import WorkerJoinedTorchConfig

    scaling = experiment.scaling
    on_gpu = scaling.gpus_per_worker > 0
    resources: dict[str, float] = {"CPU": scaling.cpus_per_worker}
    if on_gpu:
        resources["GPU"] = scaling.gpus_per_worker
    workers: Any = (
        (scaling.required_workers, scaling.workers) if scaling.min_workers else scaling.workers
    )
    room = cluster_capacity(scaling.cpus_per_worker, scaling.gpus_per_worker)
    if is_single_machine() and room < scaling.required_workers:  # for ever
        raise no_room(scaling, room, "this machine")
    # Workers wait for room: a lost host comes back, an autoscaler starts another one, the trainings
    # before this one in a sweep end. Ray Train counts a wait in vain as one of the failures. Where
    # fewer will do, they wait until Ray has noticed which hosts are left, and that counts as nothing.
    wait_s = NOTICED_S if scaling.min_workers else PATIENCE_S // (scaling.max_failures + 1)
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(wait_s))
    # Ray Train's controller fetches reports when it polls, and a worker waits until then: at the
    # default of 2 s, twenty reports cost forty seconds.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    # Of the 30 s that a cloud may give, Ray's default wait takes up to 5.
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")
    loop: Any = _worker
    with Scratch() as bookkeeping:
        trainer = TorchTrainer(
            loop,
            train_loop_config={
                "experiment": experiment.model_dump(mode="json"),
                "run": run,
                "tell": on_report,
            },
            scaling_config=Workers(  # type: ignore[call-arg]
                num_workers=workers,
                elastic_resize_monitor_interval_s=REGROW_S,
                use_gpu=on_gpu,
                resources_per_worker=resources,
            ),
            torch_config=WorkerJoinedTorchConfig(),
            run_config=RunConfig(
                name=f"train-{uuid4().hex[:12]}",
                # Checkpoints go to our own store. This is for Ray's controller, which runs on this
                # host; the workers, on others perhaps, write nothing there.
                storage_path=bookkeeping,
                failure_config=FailureConfig(  # type: ignore[call-arg]
                    max_failures=scaling.max_failures,
                    # a lost host may show as workers that do not start
                    controller_failure_limit=-1 if scaling.min_workers else scaling.max_failures,
                ),
                callbacks=list(callbacks),
            ),
        )
        try:
            # Not in the main thread, where Ray Train would take Ctrl-C for itself and end at once.
            result: Any = in_background(trainer.fit).result()
        except Exception as error:
            raise _as_problem(error, scaling) from error
    outcome = result.return_value
    if isinstance(outcome, Problem):
        raise outcome
    trained: TrainingResult = outcome
    return trained


def _worker(config: dict[str, Any]) -> TrainingResult | Problem:
    """A Ray Train worker. A problem that all workers share is an answer, not a crash to retry."""
    from ray import train

    from ..compute.process_group import join_process_group

    quiet_logs()
    on_report: ReportCallback = config["tell"]
    experiment = Experiment.model_validate(config["experiment"])
    join_process_group("nccl" if experiment.scaling.gpus_per_worker else "gloo")
    context = train.get_context()
    rank, workers = context.get_world_rank(), float(context.get_world_size())

    def report(progress: Progress) -> bool:
        train.report(asdict(replace(progress, metrics={**progress.metrics, "workers": workers})))
        return rank == 0 and on_report(progress)

    notices: set[tuple[str, ...]] = set()

    def notice() -> bool:
        """Hosts that are about to be taken away; a training goes on until they are."""
        info = train.get_preemption_info()
        if info is None or (hosts := tuple(info.preempted_node_ids)) in notices:
            return False
        notices.add(hosts)
        return True

    try:
        return train_in_process_group(experiment, config["run"], report, notice)
    except Problem as problem:
        return problem


def _as_problem(error: Exception, scaling: ScalingConfig) -> Problem:
    """Ray's nested errors as one line: the workers' own words."""
    failures = getattr(error, "worker_failures", None) or {}
    for rank, failure in sorted(failures.items()):
        return Problem(
            f"worker {rank} failed more than {scaling.max_failures} times: {last_line(failure)}",
            "see the Ray log for its traceback; the same command goes on from the last checkpoint",
        )
    inner = getattr(error, "controller_failure", None)
    if type(inner).__name__ == "WorkerGroupStartupTimeoutError":  # which Ray does not export
        return waited_in_vain(scaling)
    return Problem(
        f"Ray Train stopped: {last_line(error)}",
        "run `whipray doctor --ray`, then the same command",
    )
