"""TCFG: guidance trained into the network (CBDM's supplement, eq. 32 and 33).

The network also predicts for a given omega, e(x, y, omega), which takes one call where classifier-
free guidance takes two. With d = e(x, y) - e(x), all norms being means over pixels:

    L = || e(x, y or null) - eps ||^2                             the plain denoising that e(x, y), e(x) need
      + || e(x, y, omega) - omega sg(d) - eps ||^2                eq. 32
      + 1/4 || sg e(x, y, omega) - omega d - eps ||^2             eq. 33, printed without its eps

Left open by the paper: the distribution of omega, here uniform in [0, omega_max] (it tests up to 1);
the rows whose label is dropped, which have the first term only; and dropout, whose masks here differ
between the three predictions of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss

from ..guidance import NULL_LABEL
from ..processes import Process
from ..randomness import BatchRandom
from .base import Batch, Loss, Objective, ObjectiveConfig, Predictor, noised


class TCFGConfig(ObjectiveConfig):
    """Training-time classifier-free guidance; needs `model.guidance_embedding=true`."""

    name: Literal["tcfg"] = "tcfg"
    omega_max: float = Field(1.0, gt=0)
    """Omega is sampled uniformly in [0, omega_max]; generating beyond it extrapolates."""
    gamma: float = Field(0.25, ge=0)
    """Weight of eq. 33, the gradient into e(x, y) - e(x)."""

    def build(self, class_counts: Sequence[int]) -> TCFG:  # noqa: ARG002  (one signature for all)
        """Build the objective; it does not use the class counts."""
        return TCFG(self)


class TCFG(Objective):
    """Eq. 32 and 33 beside plain denoising; all three predictions come from one batch."""

    def __init__(self, config: TCFGConfig) -> None:
        self.config = config

    def __call__(
        self,
        model: Predictor,
        batch: Batch,
        process: Process,
        rng: BatchRandom,
        images_seen: int,  # noqa: ARG002
    ) -> Loss:
        """Return the loss of one batch; see `Objective`."""
        n = noised(batch, process, rng, self.config)
        device, size = n.x_t.device, len(n.x_t)
        kept = n.kept.nonzero()[:, 0]  # (K,)
        omega_host = rng.uniform("omega")[kept, 0] * self.config.omega_max
        rows = kept.to(device, non_blocking=True)  # (K,)
        omega = omega_host.float().to(device, non_blocking=True)  # (K,)
        source = torch.cat([torch.arange(size, device=device), rows, rows])  # (B + 2K,)
        labels = torch.cat([n.labels, torch.full_like(rows, NULL_LABEL), batch.labels[rows]])
        omega_input = torch.cat([torch.full((size + len(rows),), -1.0, device=device), omega])
        h = model(n.x_t[source], n.t[source], labels, omega=omega_input, **n.extra_of(source))
        own, (unconditional, guided) = h[:size], h[size:].chunk(2)

        w = omega[:, None, None, None]  # (K, 1, 1, 1)
        d, eps = own[rows] - unconditional, n.target[rows]  # (K, C, H, W)
        denoising = mse_loss(own, n.target)
        towards = _mean(guided - w * d.detach() - eps, size)  # eq. 32
        back = self.config.gamma * _mean(guided.detach() - w * d - eps, size)  # eq. 33
        return Loss(
            denoising + towards + back,
            {
                "denoising": denoising.detach(),
                "guidance": towards.detach(),
                "commitment": back.detach(),
            },
        )


def _mean(difference: Tensor, batch_size: int) -> Tensor:
    """Return the mean square over pixels, summed over rows, over B: a mean over the batch, () float32."""
    return difference.square().flatten(1).mean(1).sum() / batch_size
