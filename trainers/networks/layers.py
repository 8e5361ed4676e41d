"""Layers with their initial weights, and checks of sizes, that the U-Nets share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def conv(c_in: int, c_out: int, size: int, *, stride: int = 1, gain: float = 1.0) -> nn.Conv2d:
    """Make a convolution with Xavier's uniform weights (Glorot & Bengio 2010, eq. 16) and no bias at first."""
    made = nn.Conv2d(c_in, c_out, size, stride=stride, padding=size // 2)
    nn.init.xavier_uniform_(made.weight, gain=gain)
    assert made.bias is not None
    nn.init.zeros_(made.bias)
    return made


def check_levels(
    channel_mult: Sequence[int], attention_resolutions: Sequence[int], height: int, width: int
) -> None:
    """Check that images can be halved for each further level, and that attention has a level.

    Raises:
        ValueError: they cannot, or no level has any of these heights.
    """
    levels = len(channel_mult)
    if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
        raise ValueError(
            f"a {height}x{width} image cannot be halved {levels - 1} times: "
            f"use fewer entries in model.channel_mult"
        )
    sides = [height // 2**level for level in range(levels)]
    if attention_resolutions and not set(attention_resolutions) & set(sides):
        raise ValueError(
            f"model.attention_resolutions {list(attention_resolutions)} are none of the levels' "
            f"heights {sides}"
        )
