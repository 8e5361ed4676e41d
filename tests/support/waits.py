"""A device that refuses to be waited for.

Tensors of PyTorch's device `meta` have no values: whatever reads one (`.item()`, `bool()`, `nonzero`, a copy to
the host) fails there as it would make the host wait for a GPU. `NoWaits` refuses the rest: ways in which a GPU
waits for the host or the other way round, and which `meta` computes without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")
READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "bincount")
"""Operations whose result the host reads, or whose size is that of a result."""


class Waits(AssertionError):
    """A step would wait for the device."""


class NoWaits(TorchDispatchMode):
    """Inside, what would make host or device wait for one another raises `Waits`.

    Args:
        anywhere: also for the host's own tensors, where all work is the device's.
    """

    def __init__(self, anywhere: bool = False) -> None:
        super().__init__()
        self.anywhere = anywhere

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = _tensors([*args, *kwargs.values()])
        there = [t for t in tensors if t.device == META]
        if name in READS and (there or self.anywhere):
            raise Waits(f"{name} reads the device's result")
        if name == "_to_copy" and "device" in kwargs:
            pair = {tensors[0].device.type, torch.device(kwargs["device"]).type}
            if len(pair) == 2 and not kwargs.get("non_blocking"):
                raise Waits("a copy to or from the device waits: it is not `non_blocking`")
        elif name == "copy_":
            if len({t.device for t in tensors[:2]}) == 2 and not (args[2:] or (False,))[0]:
                raise Waits("a copy to or from the device waits: it is not `non_blocking`")
        elif name == "lift_fresh" and there:
            raise Waits("numbers of Python's become a tensor on the device in a copy that waits")
        elif there and any(t.device != META and t.dim() for t in tensors):
            raise Waits(f"{name} mixes tensors of host and device")
        elif name in ("index", "index_put_", "index_put", "_unsafe_index") and any(
            t.dtype in (torch.bool, torch.uint8) for t in _tensors(args[1]) if t.device == META
        ):
            raise Waits(f"{name} by a mask has as many rows as the mask has ones")
        return func(*args, **kwargs)


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    """All tensors among some arguments, also those in lists."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


class EngineElsewhere:
    """Stands for `Engine`: a network of the training on `META`, whose gradients are computed and not used."""

    world, rank = 1, 0

    def __init__(self, network: nn.Module, *_: Any, **__: Any) -> None:
        self.network = network.to(META)

    def predict(self, x: Tensor, time: Tensor, labels: Tensor, **extra: Any) -> Tensor:
        output: Tensor = self.network(x, time, labels, **extra)
        return output.float()

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, *_: Any) -> None:
        pass

    def close(self) -> None:
        pass
