"""Focal denoising, a baseline of CALL's tables.

The paper only names it ("+Focal"); a diffusion loss has no class probability. The interpretation
here: with l_i the mean squared error of row i, exp(-l_i) takes the place where the focal loss (Lin et al.
2017, eq. 4) has the probability of the true class:

    L = mean_i (1 - exp(-l_i))^gamma l_i
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from ..processes import Process
from ..randomness import BatchRandom
from .base import Batch, Loss, Objective, ObjectiveConfig, Predictor, noised


class FocalConfig(ObjectiveConfig):
    """Denoising that weighs badly predicted rows more."""

    name: Literal["focal"] = "focal"
    gamma: float = Field(1.0, ge=0)
    """Focusing exponent; 0 is plain denoising. Not stated by CALL; 1 is the long-tailed
    classification baselines' (LDAM)."""

    def build(self, class_counts: Sequence[int]) -> Focal:  # noqa: ARG002  (one signature for all)
        """Build the objective; it does not use the class counts."""
        return Focal(self)


class Focal(Objective):
    """The gradient flows through the weight too, as in the focal loss for classification."""

    def __init__(self, config: FocalConfig) -> None:
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
        h = model(n.x_t, n.t, n.labels, **n.extra)  # (B, C, H, W)
        per_row = (h - n.target).square().flatten(1).mean(1)  # l_i, (B,)
        miss = -(-per_row).expm1()  # 1 - exp(-l_i)
        # Not exactly 0, where autograd makes NaN of the power below 1; the gradient there is 0.
        focus = miss.clamp(min=torch.finfo(miss.dtype).tiny) ** self.config.gamma
        focused = (focus * per_row).mean()
        return Loss(focused, {"focused": focused.detach()}, {"denoising": per_row.mean().detach()})
