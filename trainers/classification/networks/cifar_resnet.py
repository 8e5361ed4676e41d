"""ResNets of depth 6 n + 2 for small images, He et al. 2016 section 4.2, with LDAM-DRW's initial weights."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from .base import ClassifierNetwork, build_head

WIDTHS = (16, 32, 64)
MIN_SIZE = 8
"""Pixels: two halvings then leave 2 x 2, so that batch norm has several values of each channel."""


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut without parameters (option A)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.stride, self.added = stride, out - channels

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C_out, H / stride, W / stride)."""
        y: Tensor = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.stride == 1:
            return F.relu(y + x)
        before = self.added // 2  # new channels are zeros, half of them on either side
        kept = x[:, :, :: self.stride, :: self.stride]
        return F.relu(y + F.pad(kept, (0, 0, 0, 0, before, self.added - before)))


class CifarResNet(ClassifierNetwork):
    """At depth 32 it has 464,154 parameters for ten classes of RGB images, He et al.'s 0.46 million.

    Its initial weights come from the global generator.

    Args:
        depth: layers with weights, 6 n + 2.
        channels: of the images; height and width may be anything from `MIN_SIZE`.
        scale: of a head of cosines; None for a linear one.
    """

    def __init__(self, depth: int, channels: int, classes: int, scale: float | None = None) -> None:
        super().__init__()
        of_each_width = (depth - 2) // 6
        self.conv = nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(WIDTHS[0])
        first = [BasicBlock(WIDTHS[0], WIDTHS[0], 1) for _ in range(of_each_width)]
        wider = [
            BasicBlock(before if i == 0 else width, width, 2 if i == 0 else 1)
            for before, width in pairwise(WIDTHS)
            for i in range(of_each_width)
        ]
        self.blocks = nn.Sequential(*first, *wider)
        self.head = build_head(WIDTHS[-1], classes, scale)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def features(self, x: Tensor) -> Tensor:
        """Return the last layer's input, (B, C, H, W) float32 -> (B, 64), each at least zero."""
        y: Tensor = self.blocks(F.relu(self.norm(self.conv(x))))
        return y.mean((2, 3))
