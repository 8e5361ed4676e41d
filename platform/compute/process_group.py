"""The process group of Ray Train's workers, on one host or several."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]
import ray
import torch.distributed as dist
from ray import train
from ray.train.backend import Backend
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchConfig
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented

from ...trainers.devices import set_local_rank

LOOPBACK = "127.0.0.1"


class _SharedGPUs(Backend):
    """Lets a worker see the GPUs of the other workers on its host, as NCCL needs; nothing more."""

    share_cuda_visible_devices = True


@dataclass
class WorkerJoinedTorchConfig(TorchConfig):
    """Ray Train's PyTorch config for workers that call `join_process_group` themselves.

    `TorchConfig` of Ray 2.60 joins them before their function starts, and ends the whole run if one
    is lost in that moment, whatever `max_failures` says. What fails inside the function is retried.
    """

    @property
    def backend_cls(self) -> type[Backend]:
        """Return a backend that sets up no group."""
        return _SharedGPUs


def join_process_group(backend: str) -> None:
    """Make a process group of the workers; each of them calls it once.

    Args:
        backend: PyTorch's: `nccl` or `gloo`.
    """
    context = train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    set_local_rank(context.get_local_rank())
    # Neither PyTorch's store nor gloo asks who connects: on one host they stay off the network.
    on_one_host = context.get_local_world_size() == world
    address = LOOPBACK if on_one_host else ray.util.get_node_ip_address()
    if interface := _interface_of(address):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    port = 0  # any free one
    if rank == 0:
        # By itself it would listen on every interface.
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.create_server((address, port), family=family)
        port = listener.getsockname()[1]
        store = TCPStore(
            address,
            port,
            world,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
    host, port = broadcast_from_rank_zero((address, port))
    if rank != 0:
        store = TCPStore(host, port, world)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world)


def _interface_of(address: str) -> str | None:
    """Return the network interface through which the other hosts reach this one.

    Gloo by itself takes the address that the host's name resolves to: on many a machine 127.0.1.1.
    """
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in addresses):
            return str(name)
    return None
