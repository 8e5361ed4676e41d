"""What tests of objectives share: a batch, a process, and networks whose layers all act."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from whipray.trainers.objectives import Batch
from whipray.trainers.processes import VPConfig

CPU = torch.device("cpu")
COUNTS = [60, 25, 12, 3]
SHAPE = (2, 8, 8)
PROCESS = VPConfig().build()


def images_and_labels(rows: int) -> Batch:
    """A batch of noise; all of `COUNTS`'s classes are in it, if it is large."""
    generator = torch.Generator().manual_seed(rows)
    images = torch.rand(rows, *SHAPE, generator=generator) * 2 - 1
    return Batch(images, torch.randint(len(COUNTS), (rows,), generator=generator))


def awake(network: nn.Module) -> nn.Module:
    """Random weights everywhere: the initial ones silence most layers."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return network


class Spy:
    """A model that notes what it was shown."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.labels: list[list[int]] = []
        self.graphs: list[bool] = []

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor, **extra: Any) -> Tensor:
        assert len(x_t) == len(t) == len(labels)
        self.labels.append(labels.tolist())
        self.graphs.append(torch.is_grad_enabled())
        return self.model(x_t, t, labels, **extra)


class Tiny(nn.Module):
    """A smooth network in float64 that minds x_t, t and the label."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(SHAPE[0], 5, 3, padding=1)
        self.labels = nn.Embedding(len(COUNTS), 5)
        self.outer = nn.Conv2d(5, SHAPE[0], 3, padding=1)
        awake(self.double())

    def exactly(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        label = self.labels(labels.clamp(min=0)) * (labels >= 0)[:, None]
        h = self.inner(x_t) + (3 * label + t[:, None] / 500)[:, :, None, None]
        return self.outer(torch.tanh(h))

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        labels: Tensor,
        dropout_rows: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        return self.exactly(x_t.double(), t, labels).float()


def gradients(network: nn.Module, loss: Tensor) -> list[Tensor]:
    """Of every parameter, zero for those that the loss does not depend on."""
    found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    return [torch.zeros(()) if g is None else g for g in found]
