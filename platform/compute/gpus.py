"""GPUs that a config asks for are there, or the command ends: no training goes on a CPU unasked."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from ...trainers.errors import UsageProblem
from .capacity import count_on_gpus
from .peers import Peers, run_on_all_or_raise


def check_gpus(per_worker: float, workers: int = 1) -> None:
    """Check that this machine has the GPUs that its workers ask for.

    Args:
        per_worker: `scaling.gpus_per_worker`.
        workers: how many of them are on this machine.

    Raises:
        UsageProblem: it has fewer.
    """
    if per_worker == 0:
        return
    import torch

    # A fraction of a GPU does not spread over two.
    each = count_on_gpus(1, per_worker) if per_worker < 1 else 1 / per_worker
    wanted = math.ceil(workers / each)
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if usable >= wanted:
        return
    if torch.version.cuda is None and torch.version.hip is None:
        reason = f"PyTorch {torch.__version__} is built for CPUs: install a build for GPUs"
    elif usable == 0:
        reason = "see what `nvidia-smi` says of the driver, and CUDA_VISIBLE_DEVICES"
    else:
        reason = "lower scaling.workers"
    raise UsageProblem(
        f"scaling.gpus_per_worker={per_worker:g} asks for {wanted} "
        f"GPU{'s' if wanted > 1 else ''}, and PyTorch finds {usable or 'none'} on this machine",
        f"{reason}; or set scaling.gpus_per_worker=0 to train on CPUs",
    )


@dataclass(frozen=True)
class WorkerGPU:
    """The GPU that one of several workers uses."""

    host: str
    local_rank: int
    """Of the workers on this host."""
    count: int
    """GPUs that the worker sees."""
    uuid: str
    """Of its GPU, or of its instance of one under MIG; empty if it sees too few."""


def check_workers_gpus(per_worker: float, peers: Peers) -> None:
    """Check that each worker has a GPU to itself; all raise together. Collective, before NCCL.

    Raises:
        UsageProblem: a worker has none, or shares one with another worker.
    """
    run_on_all_or_raise(peers, lambda: check_gpus(per_worker))
    if per_worker and peers.size > 1:
        check_distinct(peers.all_gather(_own_gpu()))


def check_distinct(gpus: Sequence[WorkerGPU]) -> None:
    """Check the GPUs of all workers, by rank.

    Raises:
        UsageProblem: two workers would use one GPU, which NCCL refuses.
    """
    owners: dict[tuple[str, str], int] = {}
    for rank, gpu in enumerate(gpus):
        if gpu.local_rank >= gpu.count:
            raise UsageProblem(
                f"{gpu.host} has {gpu.local_rank + 1} or more workers with a GPU each, and PyTorch finds "
                f"{gpu.count} there",
                f"start Ray on it with --num-gpus={gpu.count}",
            )
        owner = owners.setdefault((gpu.host, gpu.uuid), rank)
        if owner != rank:
            raise UsageProblem(
                f"workers {owner} and {rank} would share GPU {gpu.uuid} of {gpu.host}, and NCCL needs one "
                "for each",
                "see CUDA_VISIBLE_DEVICES there, and start Ray with no more GPUs than the host has",
            )


def _own_gpu() -> WorkerGPU:
    import torch

    index, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    uuid = str(torch.cuda.get_device_properties(index).uuid) if index < count else ""
    return WorkerGPU(socket.gethostname(), index, count, uuid)
