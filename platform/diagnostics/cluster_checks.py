"""Preflight checks of a cluster: its nodes, their clocks and the network between them."""

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
"""S3 rejects signatures that are 15 minutes off; logs of several nodes mislead much earlier."""

Probe = Callable[[], str]


@contextmanager
def probes() -> Iterator[dict[str, tuple[Probe, str]]]:
    """Yield probes by name, each with the fix if it fails; they use one actor on each node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = [node for node in ray.nodes() if node["Alive"]]
    on_gpu = all(node["Resources"].get("GPU") for node in alive)
    actors = []
    for node in alive:
        on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        actor: Any = ray.remote(_Node)
        options = {"num_cpus": 0, "num_gpus": 1 if on_gpu else 0, "scheduling_strategy": on_node}
        actors.append(actor.options(**options).remote())
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
    """Check that all nodes have the same libraries; return their GPUs and least free space."""
    import ray

    nodes = ray.get([actor.facts.remote() for actor in actors], timeout=GROUP_TIMEOUT_S)
    check_alike(nodes)
    least = min(nodes, key=lambda facts: facts["free"])
    gpus = sorted({name for facts in nodes for name in facts["gpus"]})
    return (
        f"{len(nodes)} with the same libraries, {', '.join(gpus) or 'no GPU'}; "
        f"least free space {least['free'] / 2**30:.1f} GiB on {least['host']}"
    )


def _clocks(actors: Sequence[Any]) -> str:
    """Estimate each node's clock offset; the round trip bounds the error."""
    import ray

    offsets = []
    for actor in actors:
        ray.get(actor.now.remote())  # the first call waits until the actor has started
        before = time.time()
        remote = ray.get(actor.now.remote())
        after = time.time()
        offsets.append(max(0.0, abs(remote - (before + after) / 2) - (after - before) / 2))
    if max(offsets) > CLOCKS_APART_S:
        raise Problem(
            f"clocks are {max(offsets):.1f} s apart",
            "run a time service (chrony, ntpd) on every node",
        )
    return f"at most {1000 * max(offsets):.0f} ms apart"


def _reduce(actors: Sequence[Any], backend: str) -> str:
    """Measure an all-reduce over all nodes, with the backend that a training uses."""
    import ray

    if len(actors) < 2:
        return "one node: no network to measure"
    address = ray.get(actors[0].address.remote(), timeout=GROUP_TIMEOUT_S)
    calls = [
        actor.reduce.remote(i, len(actors), address, backend) for i, actor in enumerate(actors)
    ]
    seconds = max(ray.get(calls, timeout=2 * GROUP_TIMEOUT_S))
    # In the ring algorithm each node sends and receives 2 (n - 1) / n of the bytes.
    rate = 2 * (len(actors) - 1) / len(actors) * REDUCED_BYTES / seconds / 1e9
    speed = f"{REDUCED_BYTES // MIB} MiB in {seconds:.3g} s, {rate:.2g} GB/s"
    return f"{backend} all-reduce over {len(actors)} nodes: {speed}"


class _Node:
    """An actor that measures its node."""

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
        """Return an address of this node with a free port."""
        import socket

        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def reduce(self, rank: int, size: int, address: str, backend: str) -> float:
        """Return the seconds of the fastest of three all-reduces."""
        from datetime import timedelta

        import torch
        import torch.distributed as dist

        limit = timedelta(seconds=GROUP_TIMEOUT_S)
        dist.init_process_group(
            backend, init_method=address, rank=rank, world_size=size, timeout=limit
        )
        device = "cuda" if backend == "nccl" else "cpu"
        tensor = torch.ones(REDUCED_BYTES // 4, device=device)
        times = []
        for _ in range(3):
            dist.barrier()
            start = time.perf_counter()
            dist.all_reduce(tensor)
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        dist.destroy_process_group()
        return min(times)
