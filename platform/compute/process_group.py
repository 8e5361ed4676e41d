"""How Ray Train's workers become one process group, on one host or several."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]
import ray
import torch.distributed as dist
from ray import train
from ray.train.backend import Backend
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchConfig
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented


class _SharedGPUs(Backend):
    """A worker sees the GPUs of its siblings on the host too, as NCCL wants; nothing more."""

    share_cuda_visible_devices = True


@dataclass
class WorkerJoinedTorchConfig(TorchConfig):
    """PyTorch for workers that call `join_process_group` themselves.

    Ray Train would join them before it hands over to them, and gives up for good when one is lost
    in that moment. What fails while they train is tried again.
    """

    @property
    def backend_cls(self) -> type[Backend]:
        """Which sets up no group."""
        return _SharedGPUs


def join_process_group(backend: str) -> None:
    """Make a process group of the workers; each of them calls it once."""
    context = train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    os.environ["LOCAL_RANK"] = str(context.get_local_rank())  # DeepSpeed and `choose_device` ask
    here = ray.util.get_node_ip_address()
    if interface := _interface_of(here):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    port = 0  # a free one
    if rank == 0:
        store = TCPStore(here, port, world, is_master=True, wait_for_workers=False)
        port = store.port
    host, port = broadcast_from_rank_zero((here, port))
    if rank != 0:
        store = TCPStore(host, port, world)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world)


def _interface_of(address: str) -> str | None:
    """The network interface through which the other hosts reach this one.

    Gloo by itself takes the address that the host's name resolves to: on many a machine 127.0.1.1.
    """
    for name, addresses in psutil.net_if_addrs().items():
        if any(found.address == address for found in addresses):
            return str(name)
    return None
