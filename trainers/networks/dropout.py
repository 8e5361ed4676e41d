"""Dropout whose masks rows can share, within a pass and between two passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RowDropout(nn.Module):
    """Dropout whose rows can share masks, also with the rows of a pass before.

    A network calls each of these once in a pass.
    """

    set_for_a_pass = ("reuse_mask", "cached_mask")
    """Attributes that `recompute.py` sets again for a second pass."""
    reuse_mask = False
    cached_mask: Tensor | None = None

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, h: Tensor, rows: Tensor | None) -> Tensor:
        """Drop values of h (B, ...); `rows` as `dropout_rows` of `Network.forward`."""
        if not self.training or self.probability == 0:
            return h
        if rows is None and not self.reuse_mask:
            return F.dropout(h, self.probability, True)
        if self.cached_mask is not None:
            mask = self.cached_mask[: len(h)]
        else:
            mask = torch.empty_like(h, dtype=torch.bool).bernoulli_(1 - self.probability)
            if rows is not None:
                mask = mask[rows]
            if self.reuse_mask:
                self.cached_mask = mask
        return (h / (1 - self.probability)).masked_fill(~mask, 0)


@contextmanager
def reuse_dropout_masks(network: nn.Module) -> Iterator[None]:
    """Reuse, in a second pass within this context, the dropout masks of the first pass's first rows."""
    dropouts = [module for module in network.modules() if isinstance(module, RowDropout)]
    for dropout in dropouts:
        dropout.reuse_mask = True
    try:
        yield
    finally:
        for dropout in dropouts:
            dropout.reuse_mask, dropout.cached_mask = False, None
