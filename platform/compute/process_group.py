"""The process group of Ray Train's workers, on one host or several."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray import train
from ray.train.backend import Backend
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchConfig
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented

from ...trainers.devices import set_local_rank
from ..config.scaling import ScalingConfig
from .node_facts import interface_of
from .peers import StorePeers

LOOPBACK = "127.0.0.1"

_servers: list[Any] = []
"""Stores that this process serves, as worker 0. They live as long as it does: another worker may read its
last answer after this one has returned, and would count as failed without the store."""

NCCL_SETTINGS = {
    # Its threads listen on the network, ask nobody, and share a port with every other training of the
    # host. Hangs are found by `scaling.timeout_s`.
    "NCCL_RAS_ENABLE": "0",
    # What was communicated last is written to a file when that time is over.
    "TORCH_FR_BUFFER_SIZE": "2000",
    "TORCH_FR_DUMP_ON_TIMEOUT": "1",
}
"""Variables of workers that the node and `scaling.environment` may set otherwise. PyTorch's own default
ends a process whose communication fails (TORCH_NCCL_ASYNC_ERROR_HANDLING=3): the training resumes."""


class _SharedGPUs(Backend):
    """Lets a worker see the GPUs of the other workers on its host, as NCCL needs; nothing more."""

    share_cuda_visible_devices = True


@dataclass
class WorkerJoinedTorchConfig(TorchConfig):
    """Ray Train's PyTorch config for workers that begin their group themselves.

    `TorchConfig` of Ray 2.60 joins them before their function starts, and ends the whole run if one
    is lost in that moment, whatever `max_failures` says. What fails inside the function is retried.
    """

    @property
    def backend_cls(self) -> type[Backend]:
        """Return a backend that sets up no group."""
        return _SharedGPUs


def meet_workers(scaling: ScalingConfig) -> StorePeers:
    """Return the workers of a training, of which this process is one; each of them calls it once.

    They talk through a store that worker 0 holds until they begin their process group.
    """
    context = train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    set_local_rank(context.get_local_rank())
    # Neither PyTorch's store nor gloo asks who connects: on one host they stay off the network.
    on_one_host = context.get_local_world_size() == world
    address = LOOPBACK if on_one_host else ray.util.get_node_ip_address()
    for name, value in {**NCCL_SETTINGS, **_network(address, on_one_host)}.items():
        os.environ.setdefault(name, value)
    port, key = 0, b""  # any free port
    if rank == 0:
        # By itself it would listen on every interface.
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.create_server((address, port), family=family)
        port, key = listener.getsockname()[1], secrets.token_bytes()
        server = TCPStore(
            address,
            port,
            world,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        _servers.append(server)
    host, port, key = broadcast_from_rank_zero((address, port, key))  # through Ray, by its token
    return peers_at(host, port, key, rank, world, scaling)


def peers_at(
    host: str, port: int, key: bytes, rank: int, world: int, scaling: ScalingConfig
) -> StorePeers:
    """Return the workers that share the store at an address."""
    # Clients of their own: one that waits for hours would hold up what PyTorch asks it.
    clients = [TCPStore(host, port, world, wait_for_workers=False) for _ in range(2)]
    begin = partial(_begin_group, clients[0], rank, world, scaling)
    return StorePeers(clients[1], rank, world, key, scaling.load_timeout_s, begin)


def _begin_group(store: Any, rank: int, world: int, scaling: ScalingConfig) -> None:
    """Begin the process group of the training; a collective that takes longer ends the worker."""
    timeout = timedelta(seconds=scaling.timeout_s)
    device = None
    if scaling.gpus_per_worker:
        # All workers of a host see all of its GPUs; objects and NCCL would use the first one.
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device else "gloo",
        store=store,
        rank=rank,
        world_size=world,
        timeout=timeout,
        device_id=device,  # NCCL connects now, and not in the first step
    )


def _network(address: str, on_one_host: bool) -> dict[str, str]:
    """Return the settings by which gloo and NCCL take the network through which the workers met."""
    interface = interface_of(address)
    if interface is None:
        return {}
    # On one host NCCL needs no network but to begin, and may look at all of them to know the host.
    nccl = {} if on_one_host else {"NCCL_SOCKET_IFNAME": f"={interface}"}
    return {"GLOO_SOCKET_IFNAME": interface, **nccl}
