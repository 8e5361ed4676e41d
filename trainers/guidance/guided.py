"""From networks to a denoiser with guidance in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

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
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the network's convolutions and products."""

    def __call__(self, x_t: Tensor, level: Level, labels: Tensor, **extra: Any) -> Tensor:
        """Return x_0, (B, C, H, W) float32.

        Args:
            x_t: (B, C, H, W).
            labels: (B,) int64, `NULL_LABEL` for an unconditional prediction.
            extra: as the network takes it.
        """
        t = torch.full((len(x_t),), level.t, dtype=torch.float64, device=x_t.device)
        inputs = self.process.network_input(x_t, t)
        is_bf16 = self.precision == "bf16"
        with torch.autocast(x_t.device.type, torch.bfloat16) if is_bf16 else nullcontext():
            output = self.network(*inputs, labels, **extra)
        return self.process.to_x0(output.float(), x_t, t)


def guided(
    own: Denoiser,
    guide: Denoiser | None,
    config: GuidanceConfig,
    labels: Tensor,
    class_counts: Sequence[int],
) -> Guided:
    """Return x_0 as guidance has it.

    The reference is asked for the rows that are guided at a noise level, and for no others; where it is the
    network itself, both predictions are one batch. A network that embeds omega (TCFG) takes it as an input
    and needs one prediction, but for guidance by another model, to which it gives its plain one.

    Args:
        guide: the other model; needed if the config's reference is one.
        labels: (B,) int64; null ones are not guided.
        class_counts: training images of each class.
    """
    of_class = config.strengths(class_counts).to(labels.device)
    omega = torch.where(labels == NULL_LABEL, 0.0, of_class[labels.clamp(min=0)])  # (B,) float32
    rows = omega.nonzero()[:, 0]  # (G,), the guided ones
    if len(rows) == 0:
        return lambda x_t, level: own(x_t, level, labels)
    weight = omega[rows, None, None, None]  # (G, 1, 1, 1)
    with_null = torch.cat([labels, torch.full_like(rows, NULL_LABEL)])  # (B + G,)

    def denoise(x_t: Tensor, level: Level) -> Tensor:
        if not config.active(level):
            return own(x_t, level, labels)
        if config.reference == "guide":
            assert guide is not None
            x_0 = own(x_t, level, labels)
            reference = _ask(guide, own.process, x_t[rows], level, labels[rows])
        elif getattr(own.network, "guidance", None) is not None:
            given = torch.where(omega == 0, -1.0, omega)  # (B,); -1 is no input, and 0 is one
            return own(x_t, level, labels, omega=given)
        else:
            both = own(torch.cat([x_t, x_t[rows]]), level, with_null)
            x_0, reference = both[: len(x_t)], both[len(x_t) :]
        change = weight * (x_0[rows] - reference)  # (G, C, H, W)
        return x_0.index_add(0, rows, change)

    return denoise


def _ask(guide: Denoiser, process: Process, x_t: Tensor, level: Level, labels: Tensor) -> Tensor:
    """Return x_0 by a guide, given x_t of a process that may be another than its own.

    alpha x_0 + sigma eps at one sigma / alpha is the same in all processes, up to its scale; where the
    guide's process ends below that noise, it is given its noisiest x_t, and where it begins above it, its
    cleanest one.
    """
    if guide.process.config == process.config:  # type: ignore[attr-defined]
        return guide(x_t, level, labels)
    its = guide.process.level(guide.process.time_of(level.ratio))
    noisier = level.ratio >= its.ratio  # inf, where alpha is 0, is as noisy as any
    scale = its.sigma / level.sigma if noisier else its.alpha / level.alpha
    return guide(x_t * scale, its, labels)
