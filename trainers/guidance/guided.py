"""From networks to a denoiser with guidance in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..processes import Level, Process
from .base import NULL_LABEL, GuidanceConfig

Guided = Callable[[Tensor, Level], Tensor]


@dataclass(frozen=True)
class Denoiser:
    """A network and the process that it was trained by, which predict x_0."""

    network: Callable[..., Tensor]
    """(input (B, C, H, W), time (B,), labels (B,)) -> output (B, C, H, W)."""
    process: Process

    def __call__(self, x_t: Tensor, level: Level, labels: Tensor, **extra: Any) -> Tensor:
        """Return x_0, (B, C, H, W) float32.

        Args:
            x_t: (B, C, H, W).
            labels: (B,) int64, `NULL_LABEL` for an unconditional prediction.
            extra: as the network takes it.
        """
        t = torch.full((len(x_t),), level.t, dtype=torch.float64, device=x_t.device)
        output = self.network(*self.process.network_input(x_t, t), labels, **extra)
        return self.process.to_x0(output.float(), x_t, t)


def guided(
    own: Denoiser,
    guide: Denoiser | None,
    config: GuidanceConfig,
    labels: Tensor,
    class_counts: Sequence[int],
) -> Guided:
    """Return x_0 as guidance has it.

    Where the reference is the network itself, both predictions are one batch; where no row is guided, it is
    not asked. A network that embeds omega (TCFG) takes it as an input and needs one prediction.

    Args:
        guide: the other model; needed if the config's reference is one.
        labels: (B,) int64; null ones are not guided.
        class_counts: training images of each class.
    """
    of_class = config.strengths(class_counts).to(labels.device)
    omega = torch.where(labels == NULL_LABEL, 0.0, of_class[labels.clamp(min=0)])  # (B,) float32
    if not bool((omega != 0).any()):
        return lambda x_t, level: own(x_t, level, labels)
    weight = omega[:, None, None, None]
    null = torch.full_like(labels, NULL_LABEL)

    def denoise(x_t: Tensor, level: Level) -> Tensor:
        if not config.active(level):
            return own(x_t, level, labels)
        if config.reference == "guide":
            assert guide is not None
            x_0, reference = own(x_t, level, labels), guide(x_t, level, labels)
        elif getattr(own.network, "guidance", None) is not None:
            given = torch.where(labels == NULL_LABEL, -1.0, omega)  # (B,), no input for null labels
            return own(x_t, level, labels, omega=given)
        else:
            both = torch.cat([labels, null])
            x_0, reference = own(x_t.repeat(2, 1, 1, 1), level, both).chunk(2)
        return x_0 + weight * (x_0 - reference)

    return denoise
