"""The processes that train one classifier together: each has some rows of every batch.

Order, crops and flips are functions of a batch's rows, and batch norm takes its statistics over all of
them, so that any number of processes takes the same steps, up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

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
        """Return a module whose gradients are means over the processes.

        Args:
            network: is in it, with its parameters and with batch norm that spans the processes.
        """
        if self.size == 1:
            return network
        if device.type == "cuda":
            # NCCL takes the current device, which is the first unless it is set.
            torch.cuda.set_device(device)
            nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        else:
            _span_batch_norm(network)
        return DistributedDataParallel(network)

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


class SpanningBatchNorm(nn.BatchNorm2d):
    """Batch norm over the rows of all processes, on the CPU: PyTorch's SyncBatchNorm needs a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        values = x.float()
        own = torch.tensor([values.numel() / self.num_features])
        sums = _sum_over_processes(torch.cat([values.sum((0, 2, 3)), own]))  # (C + 1,)
        count, mean = sums[-1], sums[:-1] / sums[-1]
        centred = values - mean[:, None, None]
        variance = _sum_over_processes(centred.square().sum((0, 2, 3))) / count  # (C,)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        normalised: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return normalised.to(x.dtype)


class _SumOverProcesses(torch.autograd.Function):
    """A sum over processes; its gradient is that of what all of them make of it."""

    @staticmethod
    def forward(_ctx: Any, own: Tensor) -> Tensor:
        dist.all_reduce(total := own.clone())
        return total

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        dist.all_reduce(total := gradients[0].clone())
        return total


def _sum_over_processes(own: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(own)
    return total


def _span_batch_norm(network: nn.Module) -> None:
    """Replace the batch norms of an untrained network; the parameters stay."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                spanning = SpanningBatchNorm(child.num_features, child.eps, child.momentum)
                spanning.weight, spanning.bias = child.weight, child.bias
                setattr(module, name, spanning)
