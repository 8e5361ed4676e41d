"""Adam that keeps moving averages of the weights as further states.

As a state, an average is sharded by ZeRO with the rest, follows the fp32 master weights, is saved
and restored by the same calls, and costs no communication.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from .averaging import WIDEST, decay_at
from .checkpoint import EMA, profile_kind
from .config import Config

Decay = Annotated[float, Field(ge=0, lt=1)]
Width = Annotated[float, Field(ge=0.01, lt=WIDEST)]


class OptimizerConfig(Config):
    """Adam, warm-up, clipping and EMA; the defaults are CBDM's at batch 64.

    Warm-up and EMA are counted in images, which suits any batch, or in steps, as published code
    counts them. A layer that gives one of the two replaces the other of the layers before it.
    """

    alternatives: ClassVar[tuple[tuple[str, str], ...]] = (
        ("warmup_images", "warmup_steps"),
        ("ema_half_life_images", "ema_decay"),
    )
    """Fields of which one at most is given; of none, the first is at its default."""

    lr: float = Field(2e-4, gt=0)
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled, as AdamW; 0 is Adam."""
    warmup_images: int | None = Field(None, ge=0)
    """Images over which the learning rate rises linearly; 320,000 (5,000 steps of 64) unless
    `warmup_steps` is given."""
    warmup_steps: int | None = Field(None, ge=0)
    """The same in steps of whatever batch; 5,000 in the released code of CBDM and OC."""
    clip: float = Field(1.0, ge=0)
    """Largest L2 norm of the gradient; 0 does not clip."""
    ema_half_life_images: float | None = Field(None, gt=0)
    """Images after which a weight counts half in the average; 443,600 (decay 0.9999 at batch 64)
    unless `ema_decay` is given."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """The same as the share of the average that each step keeps, whatever the batch; 0.9999 in the
    released code of CBDM and OC."""
    ema_ramp: float = Field(0.0, ge=0, le=1)
    """Largest half-life as a share of the images seen so far, as in EDM (0.05); 0 sets no limit."""
    ema_profiles: tuple[Width, ...] = ()
    """Widths of power-function averages that are kept beside it, relative to the images seen so far; EDM2
    keeps [0.05, 0.1]. From them `sampling.ema_width` forms averages of other widths after the training.
    Each takes the memory of one more set of weights, and the store keeps it at up to 20 moments."""

    @model_validator(mode="before")
    @classmethod
    def _one_of_each_pair(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        filled = dict(values)
        for (name, other), default in zip(cls.alternatives, (320_000, 443_600), strict=True):
            given = [key for key in (name, other) if filled.get(key) is not None]
            if len(given) == 2:
                raise ValueError(f"{name} and {other} are both given: keep one of the two")
            if not given:
                filled[name] = default
        return filled

    @field_validator("ema_profiles")
    @classmethod
    def _each_once(cls, widths: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(map(profile_kind, widths))) < len(widths):
            raise ValueError("the same width twice: keep one of the two")
        return widths

    def warmup_over(self, batch: int) -> int:
        """Return the images over which the learning rate rises, at this batch."""
        if self.warmup_steps is not None:
            return self.warmup_steps * batch
        assert self.warmup_images is not None
        return self.warmup_images

    def half_life(self, batch: int) -> float:
        """Return the images after which a weight counts half in the average, at this batch."""
        if self.ema_decay is not None:
            return batch * math.log(0.5) / math.log(self.ema_decay)
        assert self.ema_half_life_images is not None
        return self.ema_half_life_images

    def lr_at(self, images_seen: int, batch: int) -> float:
        """Return the learning rate of the step of `batch` images that ends at `images_seen`."""
        warmup = self.warmup_over(batch)
        return self.lr * min(1.0, images_seen / warmup) if warmup else self.lr

    def ema_decay_at(self, images_seen: int, batch: int) -> float:
        """Return the share of the old average that the step that ends at `images_seen` keeps."""
        half_life = self.half_life(batch)
        if self.ema_ramp > 0:
            half_life = min(half_life, self.ema_ramp * images_seen)
        return float(0.5 ** (batch / max(half_life, 1e-9)))

    def decays_at(self, images_seen: int, batch: int) -> dict[str, float]:
        """Return the share that the step that ends at `images_seen` keeps of each average, by its state."""
        profiles = {profile_kind(w): decay_at(w, images_seen, batch) for w in self.ema_profiles}
        return {EMA: self.ema_decay_at(images_seen, batch), **profiles}


LONGEST_WARMUP = 0.5
"""Share of a run from which its warm-up is called long."""
MOST_OF_START = 0.05
"""Share of the first weights in the final average from which its half-life is called long."""


def too_long(config: OptimizerConfig, images: int, batch: int) -> list[str]:
    """Return a line for warm-up and for EMA if it is too long for a run, and what to set instead.

    Args:
        images: that the run sees.
        batch: images of a step.
    """
    lines = []
    warmup = config.warmup_over(batch)
    if warmup > LONGEST_WARMUP * images:
        in_steps = config.warmup_steps is not None
        fix = (
            f"warmup_steps={images // (10 * batch)}"
            if in_steps
            else f"warmup_images={images // 10}"
        )
        lines.append(
            f"the learning rate rises over {warmup:,} images, this run sees {images:,}: "
            f"set optimizer.{fix}"
        )
    ends = np.arange(batch, images + batch, batch)  # images seen after each step
    half_lives = np.full(len(ends), config.half_life(batch))
    if config.ema_ramp > 0:
        half_lives = np.minimum(half_lives, config.ema_ramp * ends)
    left = 0.5 ** float((batch / half_lives).sum())
    if left > MOST_OF_START:
        in_steps = config.ema_decay is not None
        decay = 0.5 ** (10 * batch / images)
        fix = f"ema_decay={decay:.4g}" if in_steps else f"ema_half_life_images={images // 10}"
        lines.append(
            f"the averaged weights, which generate the images, are still {left:.0%} the first ones "
            f"after {images:,} images: set optimizer.{fix}, or optimizer.ema_ramp=0.05"
        )
    return lines


class AdamWithEMA(torch.optim.AdamW):
    """AdamW whose state also holds moving averages of each parameter: `ema`, and one for each profile.

    `decays` is set before every step. The averages start as the first step's initial weights. They are a pass
    of their own: together with Adam's it would read the weights once less, one of ten accesses to memory.
    """

    decays: dict[str, float]
    """State -> the share of the old average that a step keeps, of those that the config names."""

    def __init__(self, parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> None:
        super().__init__(
            parameters,
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.decays = dict.fromkeys((EMA, *map(profile_kind, config.ema_profiles)), 0.0)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the weights, then their averages."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        stepping = [p for p in parameters if p.grad is not None]
        fresh = {p: p.detach().clone() for p in stepping if EMA not in self.state[p]}
        result = super().step(closure)
        # after Adam's own states, which it creates where the dict is empty
        for p, initial in fresh.items():
            self.state[p].update({name: initial.clone() for name in self.decays})
        weights = [p.detach() for p in stepping]
        for name, decay in self.decays.items() if weights else ():
            averages: list[Tensor] = [self.state[p][name] for p in stepping]
            torch._foreach_lerp_(averages, weights, 1 - decay)
        return result
