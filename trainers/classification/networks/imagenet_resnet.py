"""ResNets for large images, He et al. 2016 table 1, from torchvision."""

from __future__ import annotations

from torch import Tensor, nn

from .base import ClassifierNetwork, build_head

MIN_SIZE = 33
"""Pixels: five halvings then leave 2 x 2, so that batch norm has several values of each channel."""
BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
"""Of each width. Depth 10 is OLTR's (Liu et al. 2019)."""


class ImageNetResNet(ClassifierNetwork):
    """torchvision's, with its initial weights, which come from the global generator.

    Args:
        depth: a key of `BLOCKS`; from 50 on blocks have a bottleneck.
        channels: of the images; height and width may be anything from `MIN_SIZE`.
        scale: of a head of cosines; None for a linear one.
    """

    def __init__(self, depth: int, channels: int, classes: int, scale: float | None = None) -> None:
        from torchvision.models.resnet import (  # type: ignore[import-untyped]
            BasicBlock,
            Bottleneck,
            ResNet,
        )

        super().__init__()
        self.body = ResNet(Bottleneck if depth >= 50 else BasicBlock, list(BLOCKS[depth]))
        if channels != 3:
            self.body.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.body.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.head = build_head(self.body.fc.in_features, classes, scale)
        self.body.fc = nn.Identity()

    def features(self, x: Tensor) -> Tensor:
        """Return the last layer's input, (B, C, H, W) float32 -> (B, 512), at depth 50 (B, 2048)."""
        y: Tensor = self.body(x)
        return y
