"""Which collectives a piece of code calls, with their bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .model import Collective, Kind

KINDS: Mapping[str, Kind] = {
    "allreduce_": "all_reduce",
    "allreduce_coalesced_": "all_reduce",
    "allgather_": "all_gather",
    "_allgather_base_": "all_gather",
    "allgather_into_tensor_coalesced_": "all_gather",
    "reduce_scatter_": "reduce_scatter",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_tensor_coalesced_": "reduce_scatter",
    "reduce_": "reduce",
    "broadcast_": "broadcast",
}
SCATTERS = ("reduce_scatter",)


class Recorder(TorchDispatchMode):
    """Records the collectives of `torch.distributed` that are called inside, from this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.collectives: list[Collective] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """See `TorchDispatchMode`."""
        if func.namespace == "c10d":
            name = func.overloadpacket.__name__
            if kind := KINDS.get(name):
                # The larger one of output and input is the whole tensor.
                self.collectives.append(Collective(kind, max(map(_bytes, args[:2]))))
        return func(*args, **(kwargs or {}))


def _bytes(argument: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(argument))


def _tensors(argument: Any) -> Iterator[Tensor]:
    if isinstance(argument, torch.Tensor):
        yield argument
    elif isinstance(argument, list | tuple):
        for each in argument:
            yield from _tensors(each)
