"""Ray Train's workers around any function: their room, their failures, the problem that stopped them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from ...trainers.errors import OutOfMemoryProblem, Problem
from ...trainers.memory import says_lack_of_memory
from ...trainers.scratch import Scratch
from ..config.scaling import ScalingConfig
from ..foundation.background import in_background
from ..foundation.text import last_line
from .capacity import cluster_capacity, is_single_machine, no_room, waited_in_vain

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


def run_on_workers(
    work: Callable[[dict[str, Any]], Any],
    config: dict[str, Any],
    scaling: ScalingConfig,
    callbacks: Sequence[Any] = (),
    *,
    name: str,
    less_memory: str,
    again: str,
    progress: Callable[[], object] = lambda: None,
) -> Any:
    """Call a function on `scaling.workers` Ray Train workers, again where one of them is lost.

    It has to be called within a Ray session.

    Args:
        work: called on each worker with `config`; it calls `meet_workers`. A problem that all
            workers share it returns; one of this worker alone it raises, so that the others are ended.
        callbacks: run by Ray Train's controller.
        name: of the kind of work, in Ray's dashboard.
        less_memory: what to do about workers that run out of memory.
        again: what the same command does after too many failures.
        progress: returns another value once a failure costs less than the one before it, so that failures
            are counted anew; called here and by Ray Train's controller.

    Returns:
        What worker 0 returned.

    Raises:
        Problem: what the workers returned, or what stopped them, in one line.
        UsageProblem: more of them than this machine, if there is no other, has room for.
    """
    room = cluster_capacity(scaling.cpus_per_worker, scaling.gpus_per_worker)
    if is_single_machine() and room < scaling.required_workers:  # waiting would not help
        raise no_room(scaling, room, "this machine")
    _set_timeouts(scaling)
    with Scratch() as bookkeeping:
        trainer = _trainer(
            work, config, scaling, callbacks, f"{name}-{uuid4().hex[:12]}", bookkeeping, progress
        )
        try:
            # Not in the main thread, where Ray Train 2.60 handles SIGINT itself and ends at once.
            result: Any = in_background(trainer.fit).result()
        except Exception as error:
            raise _as_problem(error, scaling, less_memory, again) from error
    outcome = result.return_value
    if isinstance(outcome, Problem):
        raise outcome
    return outcome


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
    work: Any,
    config: dict[str, Any],
    scaling: ScalingConfig,
    callbacks: Sequence[Any],
    name: str,
    bookkeeping: str,
    progress: Callable[[], object],
) -> Any:
    """Return Ray's trainer.

    Args:
        bookkeeping: a folder for Ray's controller, which runs on this host. Workers, on others
            perhaps, write nothing there: what is kept goes to our own store.
    """
    from ray.train import FailureConfig, RunConfig
    from ray.train import ScalingConfig as Workers

    from .process_group import WorkerJoinedTorchConfig
    from .ray_policies import Trainer

    resources: dict[str, float] = {"CPU": scaling.cpus_per_worker}
    if scaling.gpus_per_worker > 0:
        resources["GPU"] = scaling.gpus_per_worker
    workers: Any = (
        (scaling.required_workers, scaling.workers) if scaling.min_workers else scaling.workers
    )
    return Trainer(
        scaling.elastic_step,
        progress,
        train_loop_per_worker=work,
        train_loop_config=config,
        scaling_config=Workers(  # type: ignore[call-arg]
            num_workers=workers,
            elastic_resize_monitor_interval_s=REGROW_INTERVAL_S,
            use_gpu=scaling.gpus_per_worker > 0,
            resources_per_worker=resources,
            placement_strategy=scaling.placement.upper(),
        ),
        torch_config=WorkerJoinedTorchConfig(),
        run_config=RunConfig(
            name=name,
            storage_path=bookkeeping,
            failure_config=FailureConfig(  # type: ignore[call-arg]
                max_failures=scaling.max_failures,
                # In Ray 2.60 a lost host may show as workers that do not start, which counts here.
                controller_failure_limit=-1 if scaling.min_workers else scaling.max_failures,
            ),
            callbacks=list(callbacks),
            worker_runtime_env={"env_vars": dict(scaling.environment)},
        ),
    )


def _as_problem(error: Exception, scaling: ScalingConfig, less_memory: str, again: str) -> Problem:
    """Return Ray's nested errors as one line: what a worker raised."""
    if isinstance(error, Problem):  # with the store, before a worker was started
        return error
    failures = getattr(error, "worker_failures", None) or {}
    for failure in failures.values():
        if isinstance(failure, Problem):
            return failure
    for rank, failure in sorted(failures.items()):
        if says_lack_of_memory(str(failure)):
            return OutOfMemoryProblem(
                f"the memory of worker {rank} did not suffice: {last_line(failure)}", less_memory
            )
        return Problem(
            f"worker {rank} failed more than {scaling.max_failures} times in a row: {last_line(failure)}",
            f"see the Ray log for its traceback; the same command {again}",
        )
    inner = getattr(error, "controller_failure", None)
    if type(inner).__name__ == "WorkerGroupStartupTimeoutError":  # Ray 2.60 does not export it
        return waited_in_vain(scaling)
    return Problem(
        f"Ray Train stopped: {last_line(error)}",
        "run `whipray doctor --ray`, then the same command",
    )
