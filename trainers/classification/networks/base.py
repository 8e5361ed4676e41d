"""What all networks of the classifier have: features, and a last layer on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NetworkName = Literal[
    "resnet8",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet10",
    "resnet18",
    "resnet50",
]
NAMES: tuple[NetworkName, ...] = get_args(NetworkName)


class ClassifierNetwork(nn.Module, ABC):
    """A network whose logits are `head(features(x))`."""

    head: nn.Linear | NormalisedLinear

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Return the last layer's input, (B, C, H, W) float32 -> (B, d), each at least zero."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (B, C, H, W) float32 -> (B, classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits


class NormalisedLinear(nn.Module):
    """`scale` times the cosine between the input and each class's weights, as LDAM needs it.

    The scale, which LDAM-DRW's code has in its loss, is in the layer, so that a softmax of the logits
    has the probabilities that the network was trained with.
    """

    def __init__(self, inputs: int, classes: int, scale: float) -> None:
        super().__init__()
        self.in_features, self.out_features, self.scale = inputs, classes, scale
        self.weight = nn.Parameter(torch.empty(classes, inputs).uniform_(-1, 1))
        with torch.no_grad():
            self.weight.div_(self.weight.norm(dim=1, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits in [-scale, scale], (B, inputs) -> (B, classes), in the weights' precision."""
        with torch.autocast(x.device.type, enabled=False):  # the scale multiplies bf16's error too
            cosines = F.linear(F.normalize(x.to(self.weight.dtype)), F.normalize(self.weight))
        return self.scale * cosines


def build_head(inputs: int, classes: int, scale: float | None) -> nn.Linear | NormalisedLinear:
    """Return the last layer: linear without a scale, else of cosines."""
    if scale is None:
        return nn.Linear(inputs, classes)
    return NormalisedLinear(inputs, classes, scale)
