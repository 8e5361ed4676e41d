"""The contract of an objective, and what every objective starts from.

An objective takes (model, batch, schedule, draws, images seen) and returns a scalar loss with its
named parts. One file a method; a method's options are its own config and reach nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from ..config import Config
from ..diffusion import Schedule
from ..randomness import BatchRandom
from ..samplers import NULL_LABEL


class Predictor(Protocol):
    """The network in training, as an objective sees it."""

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor, **extra: Any) -> Tensor:
        """(B, C, H, W), (B,), (B,) and what `UNet.forward` takes by name -> output, float32."""
        ...


@dataclass(frozen=True)
class Batch:
    """This worker's rows of a global batch, on the training device."""

    images: Tensor
    """x_0, (B, C, H, W) float32 in [-1, 1]."""
    labels: Tensor
    """y, (B,) int64."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """What else the network is told of each row, by the name that `UNet.forward` has for it; (B, ..)."""
    load_whole: Callable[[], Batch] | None = None

    def whole(self) -> Batch:
        """The global batch, the same on every worker; these are its rows from `rng.first_row`."""
        return self if self.load_whole is None else self.load_whole()


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise and what it is made of."""

    total: Tensor
    """() float32; the mean over this worker's rows, so that the mean over workers is global."""
    terms: dict[str, Tensor]
    """Its summands, by name, detached scalars."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Other detached scalars to record. `denoising` is always among these or the parts."""


class Objective(ABC):
    """A training loss."""

    @abstractmethod
    def __call__(
        self, model: Predictor, batch: Batch, schedule: Schedule, rng: BatchRandom, images_seen: int
    ) -> Loss:
        """The loss of one batch; every random number comes from `rng`.

        The first call of the model has the batch's rows first, in their order, with their labels
        kept or dropped: `CALL` adds to that call.
        """

    def check(self, means: Mapping[str, float]) -> None:  # noqa: B027
        """Look at the parts of the loss, means over all workers since the last report.

        Raises:
            DivergenceProblem: they cannot be those of a training that goes well.
        """


class ObjectiveConfig(Config):
    """What all objectives share: labels dropped for classifier-free guidance."""

    label_drop: float = Field(0.1, ge=0, le=1)
    """Share of labels replaced by null (CBDM table 8: 10 % is best)."""
    label_drop_per: Literal["sample", "batch"] = "sample"
    """sample: each label by its own coin (Ho & Salimans 2022); batch: one coin for the whole
    global batch, as CBDM's and OC's released code."""

    def prepare(self, network: nn.Module) -> None:
        """Add to the network what the objective needs there."""


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
    eps: Tensor
    """The noise in x_t, (B, C, H, W)."""
    extra: Mapping[str, Tensor]
    """As `Batch.extra`."""

    def extra_of(self, rows: Tensor) -> dict[str, Tensor]:
        """`extra` for some rows (R,), on the device."""
        return {name: values[rows] for name, values in self.extra.items()}


def keep_labels(rng: BatchRandom, config: ObjectiveConfig) -> Tensor:
    """Whose label is not dropped, (B,) bool, on the CPU."""
    if config.label_drop_per == "sample":
        return rng.uniform("label_drop")[:, 0] >= config.label_drop
    return torch.full((rng.rows,), rng.for_batch("label_drop") >= config.label_drop)


def noised(batch: Batch, schedule: Schedule, rng: BatchRandom, config: ObjectiveConfig) -> Noised:
    """Draw t, eps and label drops, and form x_t (Ho et al. algorithm 1)."""
    device = batch.images.device
    t_host = rng.integers("t", schedule.timesteps)  # (B,) uniform in 0..T-1
    t = t_host.to(device, non_blocking=True)
    eps = rng.normal("eps", batch.images.shape[1:])
    kept = keep_labels(rng, config)
    labels = torch.where(kept.to(device, non_blocking=True), batch.labels, NULL_LABEL)
    return Noised(
        x_t=schedule.q_sample(batch.images, t, eps),
        t=t,
        t_host=t_host,
        target=schedule.target(batch.images, t, eps),
        labels=labels,
        kept=kept,
        eps=eps,
        extra=batch.extra,
    )
