"""The contract of an objective, and what every objective starts from.

An objective takes (model, batch, schedule, draws, images seen) and returns a scalar loss with its
named parts. One file a method; a method's options are its own config and reach nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from ..config import Config
from ..diffusion import Schedule
from ..randomness import Draws
from ..samplers import NULL_LABEL


class Predictor(Protocol):
    """The network in training, as an objective sees it."""

    def __call__(
        self, x_t: Tensor, t: Tensor, labels: Tensor, dropout_rows: Tensor | None = None
    ) -> Tensor:
        """(B, C, H, W), (B,), (B,), optionally (B,) -> output (B, C, H, W) float32."""
        ...


@dataclass(frozen=True)
class Batch:
    """This worker's rows of a global batch, on the training device."""

    images: Tensor
    """x_0, (B, C, H, W) float32 in [-1, 1]."""
    labels: Tensor
    """y, (B,) int64."""


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise and what it is made of."""

    total: Tensor
    """() float32; the mean over this worker's rows, so that the mean over workers is global."""
    parts: dict[str, Tensor]
    """Named, detached scalars; `denoising` is always among them."""


class Objective(ABC):
    """A training loss."""

    @abstractmethod
    def __call__(
        self, model: Predictor, batch: Batch, schedule: Schedule, draws: Draws, images_seen: int
    ) -> Loss:
        """The loss of one batch; every random number comes from `draws`."""


class ObjectiveConfig(Config):
    """What all objectives share: labels dropped for classifier-free guidance."""

    label_drop: float = Field(0.1, ge=0, le=1)
    """Share of labels replaced by null (CBDM table 8: 10 % is best)."""
    label_drop_per: Literal["sample", "batch"] = "sample"
    """sample: each label by its own coin (Ho & Salimans 2022); batch: one coin for the whole
    global batch, as CBDM's and OC's released code."""


@dataclass(frozen=True)
class Noised:
    """A batch after q_sample, with labels dropped."""

    x_t: Tensor
    """(B, C, H, W)."""
    t: Tensor
    """(B,) int64, on the device."""
    t_host: Tensor
    """The same on the CPU, where which rows to compute is decided without waiting for a GPU."""
    target: Tensor
    """What the network should say, (B, C, H, W)."""
    labels: Tensor
    """y or `NULL_LABEL`, (B,) int64, on the device."""
    kept: Tensor
    """Whose label was not dropped, (B,) bool, on the CPU."""


def noised(batch: Batch, schedule: Schedule, draws: Draws, config: ObjectiveConfig) -> Noised:
    """Draw t, eps and label drops, and form x_t (Ho et al. algorithm 1)."""
    device = batch.images.device
    t_host = draws.integers("t", schedule.timesteps)  # (B,) uniform in 0..T-1
    t = t_host.to(device, non_blocking=True)
    eps = draws.normal("eps", batch.images.shape[1:])
    if config.label_drop_per == "sample":
        kept = draws.uniform("label_drop")[:, 0] >= config.label_drop
    else:
        kept = torch.full((draws.rows,), draws.for_batch("label_drop") >= config.label_drop)
    labels = torch.where(kept.to(device, non_blocking=True), batch.labels, NULL_LABEL)
    return Noised(
        x_t=schedule.q_sample(batch.images, t, eps),
        t=t,
        t_host=t_host,
        target=schedule.target(batch.images, t, eps),
        labels=labels,
        kept=kept,
    )
