"""Blocks that are computed again in the backward pass, instead of keeping what is between their layers.

The memory of a training then grows with the number of blocks, not of layers (Chen et al. 2016, section 4.1), for
one more forward pass of its blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Modes = Sequence[tuple[nn.Module, str, Any]]


def recomputed(block: nn.Module, *inputs: Tensor | None) -> Tensor:
    """Return block(*inputs), of which only the inputs are kept for the backward pass.

    The second pass is the first one's to the bit: PyTorch gives its random numbers again, and what contexts of
    `Network` set for it (masks that two passes share, theta_g) is set again.
    """
    modes = [
        (module, name, getattr(module, name))
        for module in block.modules()
        for name in getattr(module, "set_for_a_pass", ())
    ]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _as_it_was(modes)

    output: Tensor = checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)
    return output


@contextmanager
def _as_it_was(modes: Modes) -> Iterator[None]:
    now = [(module, name, getattr(module, name)) for module, name, _ in modes]
    for module, name, value in modes:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in now:
            setattr(module, name, value)
