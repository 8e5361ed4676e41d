"""Groups of worker processes, as a launcher would start them: real gloo between real processes.

The processes are forked from one that has imported PyTorch and DeepSpeed, so a group costs next to
nothing, and a test process that already runs threads never forks itself.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Self
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented

from whipray.platform.compute.peers import StorePeers
from whipray.platform.config.scaling import ScalingConfig
from whipray.tests.support.servers import free_port
from whipray.trainers.deepspeed_setup import quiet_deepspeed
from whipray.trainers.devices import set_local_rank

from .shell import WAIT_S

quiet_deepspeed()
for slow in ("torch._dynamo", "deepspeed.runtime.zero.muon.muon_optimizer", "sklearn.datasets"):
    importlib.import_module(slow)


class Workers:
    """`size` processes of one group; use as a context manager.

    With `joined=False` they have a store only: `peers` are the workers that begin a group themselves.
    """

    def __init__(self, size: int, joined: bool = True) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        port = free_port()
        self.size = size
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, rank, size, port, joined), daemon=True
            )
            with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):  # to preload
                process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()  # the end of its work
        for process in self._processes:
            process.join(20)
            process.kill()

    def run(self, action: Callable[..., Any], *args: Any) -> list[Any]:
        """Call `action(*args)` on every worker at once; return what each returned or raised, by rank.

        Workers get this process's environment: they are forked from one that began with another.
        """
        for pipe in self._pipes:
            pipe.send((dict(os.environ), action, args))
        results = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(WAIT_S):
                raise RuntimeError(f"worker {rank} hangs; the others said {results}")
            results.append(pipe.recv())
        return results


_SERVERS: list[TCPStore] = []  # a store ends with its object
_PLACE: list[int] = []
"""Rank, size and the store's port of a worker that begins a group itself."""


def peers(scaling: ScalingConfig) -> StorePeers:
    """The workers of `Workers(joined=False)`, as `process_group.meet_workers` makes them."""
    from whipray.platform.compute.process_group import peers_at

    rank, size, port = _PLACE
    return peers_at("127.0.0.1", port, b"key", rank, size, scaling)


def _serve(pipe: Connection, rank: int, size: int, port: int, joined: bool) -> None:
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if joined:
        address = f"tcp://127.0.0.1:{port}"
        dist.init_process_group(backend, init_method=address, rank=rank, world_size=size)
    else:
        _PLACE[:] = rank, size, port
        if rank == 0:
            server = TCPStore("127.0.0.1", port, size, is_master=True, wait_for_workers=False)
            _SERVERS.append(server)
    while True:
        try:
            environment, action, args = pipe.recv()
        except EOFError:
            return
        os.environ.update(environment)
        set_local_rank(rank)
        try:
            result = action(*args)
        except Exception as error:  # noqa: BLE001  (the caller's to judge)
            result = error
        pipe.send(result)
