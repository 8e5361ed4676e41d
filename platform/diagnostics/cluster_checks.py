"""The part of the preflight that concerns a cluster: every node, and what lies between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ...trainers.errors import Problem
from ..foundation.versions import check_alike, local_versions

MIB = 1 << 20
REDUCED_BYTES = 64 * MIB
GROUP_TIMEOUT_S = 60
CLOCKS_APART_S = 2.0
"""Beyond it S3's signatures are near to be refused, and times in logs mislead."""

Probe = Callable[[], str]


@contextmanager
def probes() -> Iterator[dict[str, tuple[Probe, str]]]:
    """Name -> probe and what to do if it fails, over one process on each node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = [node for node in ray.nodes() if node["Alive"]]
    on_gpu = all(node["Resources"].get("GPU") for node in alive)
    actors = []
    for node in alive:
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        actor: Any = ray.remote(_Node)
        place = {"num_cpus": 0, "num_gpus": 1 if on_gpu else 0, "scheduling_strategy": here}
        actors.append(actor.options(**place).remote())
    try:
        yield {
            "nodes": (lambda: _alike(actors), "use one image on all nodes"),
            "clocks": (lambda: _clocks(actors), "run a time service (chrony, ntpd) on every node"),
            "network": (
                lambda: _reduce(actors, "nccl" if on_gpu else "gloo"),
                (
                    "open all ports between the nodes; name their network in GLOO_SOCKET_IFNAME and "
                    "NCCL_SOCKET_IFNAME"
                ),
            ),
        }
    finally:
        for actor in actors:
            ray.kill(actor)


def _alike(actors: Sequence[Any]) -> str:
    """The same libraries everywhere; where the least space is."""
    import ray

    found = ray.get([actor.facts.remote() for actor in actors], timeout=GROUP_TIMEOUT_S)
    check_alike(found)
    least = min(found, key=lambda facts: facts["free"])
    gpus = sorted({name for facts in found for name in facts["gpus"]})
    return (
        f"{len(found)} with the same libraries, {', '.join(gpus) or 'no GPU'}; "
        f"least space {least['free'] / 2**30:.1f} GiB on {least['host']}"
    )


def _clocks(actors: Sequence[Any]) -> str:
    """How far each node's clock is from this one's; the way there and back is known to a part."""
    import ray

    apart = []
    for actor in actors:
        ray.get(actor.now.remote())  # the first call waits for the process
        before = time.time()
        there = ray.get(actor.now.remote())
        after = time.time()
        apart.append(max(0.0, abs(there - (before + after) / 2) - (after - before) / 2))
    if max(apart) > CLOCKS_APART_S:
        raise Problem(
            f"clocks are {max(apart):.1f} s apart",
            "run a time service (chrony, ntpd) on every node",
        )
    return f"at most {1000 * max(apart):.0f} ms apart"


def _reduce(actors: Sequence[Any], backend: str) -> str:
    """An all-reduce over all nodes, as a training's workers do it."""
    import ray

    if len(actors) < 2:
        return "one node: there is nothing between nodes to measure"
    address = ray.get(actors[0].address.remote(), timeout=GROUP_TIMEOUT_S)
    calls = [
        actor.reduce.remote(i, len(actors), address, backend) for i, actor in enumerate(actors)
    ]
    seconds = max(ray.get(calls, timeout=2 * GROUP_TIMEOUT_S))
    # Each byte goes out and in again on every node but one (ring algorithm).
    rate = 2 * (len(actors) - 1) / len(actors) * REDUCED_BYTES / seconds / 1e9
    size = REDUCED_BYTES // MIB
    return f"{backend} all-reduce over {len(actors)} nodes: {size} MiB in {seconds:.3g} s, {rate:.2g} GB/s"


class _Node:
    """An actor on a node."""

    def facts(self) -> dict[str, Any]:
        import shutil
        import tempfile

        import torch

        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return {
            **local_versions(),
            "free": shutil.disk_usage(tempfile.gettempdir()).free,
            "gpus": gpus,
        }

    def now(self) -> float:
        return time.time()

    def address(self) -> str:
        """Of this node, with a port that is free."""
        import socket

        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def reduce(self, rank: int, size: int, address: str, backend: str) -> float:
        """Seconds of the fastest of three."""
        from datetime import timedelta

        import torch
        import torch.distributed as dist

        limit = timedelta(seconds=GROUP_TIMEOUT_S)
        dist.init_process_group(
            backend, init_method=address, rank=rank, world_size=size, timeout=limit
        )
        device = "cuda" if backend == "nccl" else "cpu"
        numbers = torch.ones(REDUCED_BYTES // 4, device=device)
        times = []
        for _ in range(3):
            dist.barrier()
            start = time.perf_counter()
            dist.all_reduce(numbers)
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        dist.destroy_process_group()
        return min(times)
