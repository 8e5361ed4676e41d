"""DDPM: plain denoising, Ho et al. 2020."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch.nn.functional import mse_loss

from ..processes import Process
from ..randomness import BatchRandom
from .base import Batch, Loss, Objective, ObjectiveConfig, Predictor, noised


class DDPMConfig(ObjectiveConfig):
    """Plain denoising: the baseline."""

    name: Literal["ddpm"] = "ddpm"

    def build(self, class_counts: Sequence[int]) -> DDPM:  # noqa: ARG002  (one signature for all)
        """Build the objective; it does not use the class counts."""
        return DDPM(self)


class DDPM(Objective):
    """E || e(x_t, t, y) - eps ||^2, eq. 14 of Ho et al., averaged over pixels."""

    def __init__(self, config: DDPMConfig) -> None:
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
        denoising = mse_loss(model(n.x_t, n.t, n.labels, **n.extra), n.target)
        return Loss(denoising, {"denoising": denoising.detach()})
