"""Adam that keeps the exponential moving average of the weights as one more state.

As a state, the average is sharded by ZeRO with the rest, follows the fp32 master weights, is saved
and restored by the same calls, and costs no communication.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from .config import Config

Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Config):
    """Adam, warm-up, clipping and EMA; the defaults are CBDM's at batch 64."""

    lr: float = Field(2e-4, gt=0)
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled, as AdamW; 0 is Adam."""
    warmup_images: int = Field(320_000, ge=0)
    """Images over which the learning rate rises linearly; 5,000 steps of 64."""
    clip: float = Field(1.0, ge=0)
    """Largest L2 norm of the gradient; 0 does not clip."""
    ema_half_life_images: float = Field(443_600, gt=0)
    """Images after which a weight counts half in the average; decay 0.9999 at batch 64."""
    ema_ramp: float = Field(0.0, ge=0, le=1)
    """Largest half-life as a share of the images seen so far, as in EDM (0.05); 0 sets no limit."""

    def lr_at(self, images_seen: int) -> float:
        """Return the learning rate of the step that ends at `images_seen`."""
        if self.warmup_images == 0:
            return self.lr
        return self.lr * min(1.0, images_seen / self.warmup_images)

    def ema_decay_at(self, images_seen: int, batch: int) -> float:
        """Return the share of the old average that the step that ends at `images_seen` keeps."""
        half_life = self.ema_half_life_images
        if self.ema_ramp > 0:
            half_life = min(half_life, self.ema_ramp * images_seen)
        return float(0.5 ** (batch / max(half_life, 1e-9)))


class AdamWithEMA(torch.optim.AdamW):
    """AdamW whose state also holds `ema`, the moving average of each parameter.

    `ema_decay` is set before every step. The average starts as the first step's initial weights.
    """

    ema_decay: float = 0.0

    def __init__(self, parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> None:
        super().__init__(
            parameters,
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the weights, then their average."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        stepping = [p for p in parameters if p.grad is not None]
        fresh = {p: p.detach().clone() for p in stepping if "ema" not in self.state[p]}
        result = super().step(closure)
        # after Adam's own states, which it creates where the dict is empty
        for p, initial in fresh.items():
            self.state[p]["ema"] = initial
        averages: list[Tensor] = [self.state[p]["ema"] for p in stepping]
        if averages:
            torch._foreach_lerp_(averages, [p.detach() for p in stepping], 1 - self.ema_decay)
        return result
