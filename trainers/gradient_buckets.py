"""Gradients averaged over workers in buckets, while the backward pass goes on (ZeRO 0).

DeepSpeed 0.19 would copy all of them into one buffer after the backward pass, and nothing would be computed
while it is sent. Here a bucket is sent as soon as its gradients are there, as PyTorch's DDP does it; unlike
DDP this allows any number of forward passes, and parameters that a step does not reach.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKETS = 8
"""As many as a network's gradients are sent in, if that makes them neither small nor huge."""
SMALLEST, LARGEST = 1_000_000, 25_000_000
"""Numbers of a bucket: 4 MB, below which latency counts more than bandwidth, and 100 MB in fp32."""


def bucket_numbers(sizes: Sequence[int]) -> int:
    """Return how many numbers are sent at once, of parameters of these sizes.

    At least as many as the largest parameter has, which DeepSpeed would otherwise send by itself, uncopied.
    """
    return max(*sizes, min(LARGEST, max(SMALLEST, sum(sizes) // BUCKETS)))


class GradientBuckets:
    """Replaces gradients by their means over the workers, during the last backward pass of a step.

    Args:
        parameters: in the order in which the forward pass uses them, more or less; the same on all workers.
        dtype: in which they are sent; sums of bfloat16 are rounded to 8 bits.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], dtype: torch.dtype) -> None:
        self._dtype, self._world = dtype, dist.get_world_size()
        self._buckets = _split(parameters, bucket_numbers([p.numel() for p in parameters]))
        self._bucket_of = {p: i for i, bucket in enumerate(self._buckets) for p in bucket}
        self._hooks = [
            p.register_post_accumulate_grad_hook(self._add)  # type: ignore[no-untyped-call]
            for p in self._bucket_of
        ]
        self._missing: list[set[nn.Parameter]] = []
        self._sent: list[tuple[Tensor, dist.Work]] = []

    def begin(self) -> None:
        """Send the gradients of the backward pass that follows."""
        self._missing = [set(bucket) for bucket in self._buckets]

    def finish(self) -> None:
        """Set the gradients to their means, 0 where no worker has one."""
        while len(self._sent) < len(self._buckets):
            self._send()
        for bucket, (flat, work) in zip(self._buckets, self._sent, strict=True):
            work.wait()  # a GPU's stream waits, the host does not
            means = torch.split(flat.float().div_(self._world), [p.numel() for p in bucket])
            for parameter, mean in zip(bucket, means, strict=True):
                parameter.grad = mean.view_as(parameter)  # no copy; the former ones are freed
        self._missing, self._sent = [], []

    def close(self) -> None:
        """Leave the parameters alone."""
        for hook in self._hooks:
            hook.remove()

    def _add(self, parameter: Tensor) -> None:
        """Send every bucket that is full; all workers send them in the same order."""
        if not self._missing:
            return
        self._missing[self._bucket_of[parameter]].remove(parameter)  # type: ignore[index,arg-type]
        while len(self._sent) < len(self._buckets) and not self._missing[len(self._sent)]:
            self._send()

    @torch.no_grad()
    def _send(self) -> None:
        bucket = self._buckets[len(self._sent)]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        flat = torch.cat([gradient.flatten() for gradient in gradients]).to(self._dtype)
        work = dist.all_reduce(flat, async_op=True)
        assert work is not None
        self._sent.append((flat, work))


def _split(parameters: Sequence[nn.Parameter], numbers: int) -> list[list[nn.Parameter]]:
    """Return parameters in the order in which their gradients come, in lists of about `numbers` numbers."""
    buckets: list[list[nn.Parameter]] = []
    room = 0
    for parameter in reversed(parameters):
        if parameter.numel() > room:
            buckets.append([])
            room = numbers
        buckets[-1].append(parameter)
        room -= parameter.numel()
    return buckets
