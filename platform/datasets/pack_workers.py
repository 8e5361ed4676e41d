"""Who decodes: processes of this machine, or Ray actors on all nodes of a cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from ...trainers.data.decoding import usable_cores
from ..compute.actor_pool import ActorPool
from ..compute.capacity import cluster_capacity
from ..compute.ray_address import cluster_address
from ..compute.ray_session import ray_session
from ..config.scaling import ScalingConfig
from ..foundation.job import in_cluster_job
from .pack_tasks import PackTask

FEW_IMAGES = 2000
"""Below which this process decodes them: others would take as long to start."""


def run_tasks(
    make: Callable[[PackTask], None],
    tasks: Sequence[PackTask],
    on_done: Callable[[PackTask], None],
) -> None:
    """Make every shard, on all nodes where this is a job on a cluster or one is named, else on all cores.

    Args:
        make: a picklable function.
        on_done: takes each shard that is finished.

    Raises:
        DataProblem: what a shard raised.
        Problem: a worker was lost too often.
    """
    if not tasks:
        return
    if in_cluster_job() or cluster_address() is not None:
        _on_ray(make, tasks, on_done)
    elif (cores := usable_cores()) > 1 and sum(map(len, tasks)) > FEW_IMAGES:
        _in_processes(make, tasks, on_done, cores)
    else:
        for task in tasks:
            make(task)
            on_done(task)


def _on_ray(
    make: Callable[[PackTask], None],
    tasks: Sequence[PackTask],
    on_done: Callable[[PackTask], None],
) -> None:
    scaling = ScalingConfig(cpus_per_worker=1)
    with ray_session():
        room = max(1, cluster_capacity(1, 0))
        pool: ActorPool[PackTask, None] = ActorPool(
            make,
            min(room, len(tasks)),
            scaling,
            task="packing images",
            memory_advice="data.image_size",
        )
        for task, _ in pool.map(tasks):
            on_done(task)


def _in_processes(
    make: Callable[[PackTask], None],
    tasks: Sequence[PackTask],
    on_done: Callable[[PackTask], None],
    cores: int,
) -> None:
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(min(cores, len(tasks)), context, _begin_process)
    try:
        waiting = {executor.submit(make, task): task for task in tasks}
        for future in as_completed(waiting):
            future.result()
            on_done(waiting[future])
    finally:
        executor.shutdown(cancel_futures=True)


def _begin_process() -> None:
    """Let the command alone answer Ctrl-C, and end with it where it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # run in processes that were started alone
    parent.join()
    os._exit(1)
