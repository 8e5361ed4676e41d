"""How many workers fit on the machines that Ray has, and the problem of too little room."""

from __future__ import annotations

from ...trainers.errors import Problem, UsageProblem
from ..config.scaling import ScalingConfig
from .ray_address import cluster_address

ROUNDING = 1e-4
"""Ray counts fractions of a GPU to four digits."""


def count_fitting_workers(hosts: list[dict[str, float]], cpus: float, gpus: float) -> int:
    """Return how many workers of that size fit on hosts with these resources.

    No worker spreads over two hosts, nor a fraction of a GPU over two GPUs.

    Args:
        hosts: `CPU` and `GPU` of each.
        cpus: of each worker.
        gpus: of each worker.
    """
    return sum(
        int(min(has.get("CPU", 0) // cpus, count_on_gpus(has.get("GPU", 0), gpus))) for has in hosts
    )


def count_on_gpus(gpus: float, per_worker: float) -> int:
    """Return how many workers so many GPUs of one host have room for, by `scaling.gpus_per_worker`."""
    if per_worker == 0:
        return 2**31
    if per_worker < 1:
        return int(gpus) * int(1 / per_worker + ROUNDING)
    return int(gpus // per_worker)


def cluster_capacity(cpus: float, gpus: float) -> int:
    """Return how many workers of that size fit on the connected cluster, busy hosts included."""
    import ray

    hosts = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return count_fitting_workers(hosts, cpus, gpus)


def is_single_machine() -> bool:
    """Return whether Ray runs on this machine and no other can join."""
    import ray

    return cluster_address() is None and len(ray.nodes()) == 1


def with_gpu_if_any(scaling: ScalingConfig) -> ScalingConfig:
    """Return the scaling with one GPU for each worker where none was asked for but some exist.

    For generating images and training classifiers: a cluster with GPUs is meant to use them there.
    """
    import ray

    gpus = scaling.gpus_per_worker or float("GPU" in ray.cluster_resources())
    return scaling.model_copy(update={"gpus_per_worker": gpus})


def no_room(
    scaling: ScalingConfig,
    room: int,
    where: str = "the cluster",
    *,
    setting: str = "scaling.workers",
    alternative: str = "",
) -> UsageProblem:
    """Return the problem of workers that do not fit and never will.

    Args:
        scaling: the workers asked for.
        room: how many such workers fit.
        where: they do.
        setting: what sets the number of workers.
        alternative: what else helps, after the usual advice.
    """
    return UsageProblem(
        f"{scaling.requirement_text}: {where} has room for {room}",
        f"lower {setting}, scaling.cpus_per_worker or scaling.gpus_per_worker{alternative}",
    )


def waited_in_vain(scaling: ScalingConfig) -> Problem:
    """Return the problem of workers that fit, but whose room others held for too long."""
    return Problem(
        f"{scaling.requirement_text}: no room for them came free in the cluster",
        "bring lost hosts back or lower scaling.workers; the same command goes on from the last "
        "checkpoint",
    )
