"""This process's device, and its place among the workers of a training."""

from __future__ import annotations

import atexit
import os
from datetime import timedelta

import torch
import torch.distributed as dist

MPI_LOCAL_RANK = "OMPI_COMM_WORLD_LOCAL_RANK"
"""DeepSpeed 0.19 fails where it differs from LOCAL_RANK."""
LAUNCHERS_VARIABLES = (
    "WORLD_SIZE",
    "RANK",
    "LOCAL_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    MPI_LOCAL_RANK,
)
"""With which torchrun and others tell a process its place in a group."""


def join_workers(device: torch.device) -> None:
    """Make sure this process is in a process group: the one that it has joined, or one of its own.

    A group of its own stays for the life of the process, since DeepSpeed keeps references to it
    from one training to the next.
    """
    if dist.is_initialized():
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = dist.HashStore()  # type: ignore[attr-defined]  # documented, but not re-exported
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    set_local_rank(device.index or 0)
    atexit.register(dist.destroy_process_group)


def limit_collectives(seconds: float) -> None:
    """Let each collective of each process group take so long; DeepSpeed's begin with PyTorch's default."""
    for group in list(dist.distributed_c10d._world.pg_map):  # no public list of them
        dist.set_timeout(timedelta(seconds=seconds), group)


def set_local_rank(rank: int) -> None:
    """Tell DeepSpeed and `choose_device` which of its host's workers this process is."""
    os.environ["LOCAL_RANK"] = str(rank)
    os.environ.pop(MPI_LOCAL_RANK, None)


def ignored_variables() -> list[str]:
    """Return the variables of other launchers in the environment, which say nothing to this process.

    torchrun, Slurm's scripts and Kubeflow set them; what they start inherits them.
    """
    if dist.is_initialized():
        return []
    names = [name for name in LAUNCHERS_VARIABLES if name in os.environ]
    named = os.environ.get("DS_ACCELERATOR", accelerator())
    return [*names, *(["DS_ACCELERATOR"] if named != accelerator() else [])]


def choose_device() -> torch.device:
    """Return this worker's GPU, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if dist.is_initialized() and dist.get_world_size() > 1:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return torch.device("cuda", torch.cuda.current_device())


def limit_memory(device: torch.device, share: float) -> None:
    """Keep this process to its share of the GPU's memory, so that lacking it fails this process alone.

    Args:
        device: of this process; on a CPU nothing is limited.
        share: of the memory, in (0, 1]. The context of CUDA comes on top, some hundred MiB a process.
    """
    if device.type == "cuda" and share < 1:
        torch.cuda.set_per_process_memory_fraction(share, device)


def accelerator() -> str:
    """Return DeepSpeed's word for the devices that `choose_device` returns."""
    return "cuda" if torch.cuda.is_available() else "cpu"
