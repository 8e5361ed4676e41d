"""What a node has for the workers of a training: GPUs, shared memory, limits, disks, a network.

Each of them, where it does not suffice, ends a training in its middle with an error of another library.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from ...trainers.disk import cache_folder
from ...trainers.errors import Problem, UsageProblem

MIB, GIB = 1 << 20, 1 << 30
SHARED_MEMORY = Path("/dev/shm")
RDMA_DEVICES = Path("/sys/class/infiniband")
SHARED_PER_GPU = 64 * MIB
"""Shared memory that NCCL may take for each GPU of a node; Docker gives a container 64 MiB in all."""
OPEN_FILES = 4096
"""Sockets and files that a worker among many may open; 1024 is the usual limit outside of containers."""
LOCKED_BYTES = 2 * GIB
"""Memory that NCCL may register with an RDMA device."""
SLOW_NETWORK_MBPS = 10_000
"""Below this rate a few hundred megabytes of gradients take longer than the step that made them."""


@dataclass(frozen=True)
class NodeFacts:
    """What one node has."""

    host: str
    gpus: tuple[str, ...]
    """Names of the GPUs that PyTorch finds, where Ray has some."""
    gpus_of_ray: int
    """GPUs that Ray gives to workers on it."""
    shared_bytes: int
    """Free in /dev/shm."""
    open_files: int
    locked_bytes: int
    """That a process may lock; -1: any number."""
    has_rdma: bool
    cache: str
    cache_bytes: int
    """Free there, and what it holds, which may be these images."""
    scratch: str
    scratch_bytes: int
    """Free there."""
    network_mbps: int
    """Of the interface through which the other nodes reach it; 0: not known."""
    problem: Problem | None
    """What `check` raised on it."""


@dataclass(frozen=True)
class Needs:
    """What a training needs on each of its nodes."""

    uses_gpus: bool
    several_nodes: bool
    cache_bytes: int = 0
    scratch_bytes: int = 0


def examine(address: str, gpus_of_ray: int, check: Callable[[], None] = lambda: None) -> NodeFacts:
    """Return what this node has.

    Args:
        address: through which the other nodes reach it.
        gpus_of_ray: see `NodeFacts`.
        check: a further check that raises a problem.
    """
    import resource

    problem: Problem | None = None
    try:
        check()
    except Problem as found:
        problem = found
    cache, scratch = cache_folder(), Path(tempfile.gettempdir())
    return NodeFacts(
        host=socket.gethostname(),
        gpus=_gpus() if gpus_of_ray else (),
        gpus_of_ray=gpus_of_ray,
        shared_bytes=_free(SHARED_MEMORY),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        locked_bytes=resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        has_rdma=RDMA_DEVICES.is_dir() and any(RDMA_DEVICES.iterdir()),
        cache=str(cache),
        cache_bytes=_free(cache) + sum(each.stat().st_size for each in _files(cache)),
        scratch=str(scratch),
        scratch_bytes=_free(scratch),
        network_mbps=_mbps(address),
        problem=problem,
    )


def lacks(node: NodeFacts, needs: Needs) -> Iterator[Problem]:
    """Yield what a training would fail for on a node, each in one line."""
    if node.problem:
        yield type(node.problem)(f"{node.host}: {node.problem.what}", node.problem.fix)
    if needs.uses_gpus and len(node.gpus) < node.gpus_of_ray:
        yield UsageProblem(
            f"{node.host}: Ray gives workers {node.gpus_of_ray} GPUs, and PyTorch finds "
            f"{len(node.gpus) or 'none'}",
            "see what `nvidia-smi` says there, and start Ray with as many GPUs as there are",
        )
    shared = SHARED_PER_GPU * node.gpus_of_ray
    if needs.uses_gpus and node.gpus_of_ray > 1 and node.shared_bytes < shared:
        yield UsageProblem(
            f"{node.host}: /dev/shm has {_size(node.shared_bytes)} free, and NCCL needs "
            f"{_size(shared)} for {node.gpus_of_ray} GPUs",
            "give its container more: --shm-size, or an emptyDir in memory",
        )
    if node.scratch_bytes < needs.scratch_bytes:
        yield UsageProblem(
            f"{node.host}: TMPDIR ({node.scratch}) has {_size(node.scratch_bytes)} free, and a checkpoint "
            f"has {_size(needs.scratch_bytes)}",
            "free some space, or set TMPDIR there to a larger disk",
        )


def doubts(node: NodeFacts, needs: Needs) -> Iterator[str]:
    """Yield what may slow a training down on a node, or stop it at some size, each in one line."""
    if node.cache_bytes < needs.cache_bytes:
        yield (
            f"{node.host}: the cache ({node.cache}) has room for {_size(node.cache_bytes)}, and the images "
            f"have {_size(needs.cache_bytes)}: set WHIPRAY_CACHE there to a larger disk"
        )
    if needs.several_nodes and node.open_files < OPEN_FILES:
        yield (
            f"{node.host}: a process may open {node.open_files} files (`ulimit -n`); many workers need "
            f"{OPEN_FILES}"
        )
    if node.has_rdma and 0 <= node.locked_bytes < LOCKED_BYTES:
        yield (
            f"{node.host}: a process may lock {_size(node.locked_bytes)} of memory (`ulimit -l`), which "
            "NCCL needs for RDMA without the capability IPC_LOCK; set it to unlimited"
        )
    slow = 0 < node.network_mbps < SLOW_NETWORK_MBPS and not node.has_rdma
    if needs.several_nodes and needs.uses_gpus and slow:
        yield f"{node.host}: its network has {node.network_mbps / 1000:g} Gb/s, and gradients cross it"


def _gpus() -> tuple[str, ...]:
    import torch

    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return tuple(torch.cuda.get_device_name(index) for index in range(usable))


def limits_text(node: NodeFacts) -> str:
    """Return in words what a node has, without its name: most nodes have the same."""
    locked = "any memory" if node.locked_bytes < 0 else _size(node.locked_bytes)
    speed = (
        f"{node.network_mbps / 1000:g} Gb/s" if node.network_mbps else "a network of unknown speed"
    )
    return (
        f"{_size(node.shared_bytes)} in /dev/shm, {node.open_files} open files, {locked} locked, "
        f"{'RDMA' if node.has_rdma else speed}, {_size(node.scratch_bytes)} in TMPDIR, "
        f"{_size(node.cache_bytes)} for the cache"
    )


def _free(folder: Path) -> int:
    """Return the free bytes of the disk that a folder is or will be on; 0 if there is none."""
    existing = next((each for each in (folder, *folder.absolute().parents) if each.exists()), None)
    return shutil.disk_usage(existing).free if existing else 0


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files right in a folder and in the folders of it."""
    for pattern in ("*", "*/*", "*/*/*"):
        yield from (each for each in folder.glob(pattern) if each.is_file())


def interface_of(address: str) -> str | None:
    """Return the network interface through which the other hosts reach this one.

    Gloo by itself takes the address that the host's name resolves to: on many a machine 127.0.1.1.
    """
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in addresses):
            return str(name)
    return None


def _mbps(address: str) -> int:
    interface = interface_of(address)
    return int(psutil.net_if_stats()[interface].speed) if interface else 0


def _size(number: int) -> str:
    return f"{number / GIB:.1f} GiB" if number >= GIB else f"{number / MIB:.0f} MiB"
