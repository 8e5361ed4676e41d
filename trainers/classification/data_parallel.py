"""The processes that train one classifier together: each has some rows of every batch.

Order, crops and flips are functions of a batch's rows, so any number of processes sees the same images.
On GPUs, batch norm takes its statistics over the whole batch (PyTorch's SyncBatchNorm): then the number
of processes changes no more than rounding. PyTorch has none for CPUs, where each process has the
statistics of its own rows, and another number of processes trains a somewhat different network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..data.packed import Indices


@dataclass(frozen=True)
class Group:
    """One of the processes, and how many there are."""

    rank: int = 0
    size: int = 1

    @classmethod
    def joined(cls) -> Self:
        """Return the process group that this process is in; alone where it has joined none."""
        if not dist.is_initialized():
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    def share(self, rows: int) -> slice:
        """Return this process's part of so many rows; the parts differ by one row at most."""
        return slice(self.rank * rows // self.size, (self.rank + 1) * rows // self.size)

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Return a module whose gradients are means over the processes; it holds `network`."""
        if self.size == 1:
            return network
        if device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(network, broadcast_buffers=False)

    def share_buffers(self, network: nn.Module) -> None:
        """Give all processes the running statistics of process 0."""
        if self.size > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)

    def mean(self, value: Tensor) -> float:
        """Return the mean of a number () over the processes."""
        if self.size > 1:
            dist.all_reduce(value)
        return float(value) / self.size

    def join(self, own: Indices) -> Indices:
        """Return the parts (n_rank,) of all processes one after the other."""
        if self.size == 1:
            return own
        parts: list[Indices | None] = [None] * self.size
        dist.all_gather_object(parts, own)
        return np.concatenate([part for part in parts if part is not None])
