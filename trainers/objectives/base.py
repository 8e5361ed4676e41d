"""The contract of an objective, and the noising that all objectives begin with.

An objective takes (model, batch, process, rng, images seen) and returns a scalar loss with its
named terms. One file per method; a method's options are its own config and affect nothing else.
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
from ..guidance import NULL_LABEL
from ..processes import Process
from ..randomness import BatchRandom


class Predictor(Protocol):
    """The network in training, as an objective calls it."""

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor, **extra: Any) -> Tensor:
        """Return the output (B, C, H, W) float32 at x_t; `extra` as the keywords of `Network.forward`."""
        ...


@dataclass(frozen=True)
class Batch:
    """This worker's rows of a global batch, on the training device."""

    images: Tensor
    """x_0, (B, C, H, W) float32 in [-1, 1]."""
    labels: Tensor
    """y, (B,) int64."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """What else the network is conditioned on, (B, ..) each, by the keyword of `Network.forward`."""
    load_whole: Callable[[], Batch] | None = None

    def whole(self) -> Batch:
        """Return the global batch, the same on every worker; this one is its rows from `rng.first_row`."""
        return self if self.load_whole is None else self.load_whole()


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise, and its terms."""

    total: Tensor
    """() float32; the mean over this worker's rows, so that the mean over workers is global."""
    terms: dict[str, Tensor]
    """Its summands, by name, detached scalars."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Other detached scalars to log. `denoising` is always among these or the terms."""


class Objective(ABC):
    """A training loss."""

    @abstractmethod
    def __call__(
        self, model: Predictor, batch: Batch, process: Process, rng: BatchRandom, images_seen: int
    ) -> Loss:
        """Return the loss of one batch; every random number comes from `rng`.

        The first call of the model has the batch's rows first, in their order, with their labels
        kept or dropped: `CALL` adds to that call.
        """

    def check(self, means: Mapping[str, float]) -> None:  # noqa: B027
        """Check the terms and metrics of the loss, means over all workers since the last report.

        Raises:
            DivergenceProblem: the training has diverged.
        """


class ObjectiveConfig(Config):
    """Settings of all objectives: labels dropped for classifier-free guidance."""

    label_drop: float = Field(0.1, ge=0, le=1)
    """Share of labels replaced by null (CBDM table 8: 10 % is best)."""
    label_drop_per: Literal["sample", "batch"] = "sample"
    """sample: independently for each label (Ho & Salimans 2022); batch: all labels of a global batch or
    none, as in CBDM's and OC's released code."""

    def prepare(self, network: nn.Module) -> None:
        """Add the layers that the objective needs to the network."""


@dataclass(frozen=True)
class Noised:
    """A batch with noise in it and labels dropped."""

    x_t: Tensor
    """(B, C, H, W)."""
    t: Tensor
    """(B,) in the process's own clock, on the device."""
    t_host: Tensor
    """The same on the CPU, where the rows to compute are chosen without waiting for a GPU."""
    target: Tensor
    """The target of the prediction, (B, C, H, W)."""
    labels: Tensor
    """y or `NULL_LABEL`, (B,) int64, on the device."""
    kept: Tensor
    """Rows whose label was not dropped, (B,) bool, on the CPU."""
    eps: Tensor
    """The noise in x_t, (B, C, H, W)."""
    extra: Mapping[str, Tensor]
    """As `Batch.extra`."""

    def extra_of(self, rows: Tensor) -> dict[str, Tensor]:
        """Return `extra` for some rows (R,), on the device."""
        return {name: values[rows] for name, values in self.extra.items()}


def keep_labels(rng: BatchRandom, config: ObjectiveConfig) -> Tensor:
    """Return which rows keep their label, (B,) bool, on the CPU."""
    if config.label_drop_per == "sample":
        return rng.uniform("label_drop")[:, 0] >= config.label_drop
    return torch.full((rng.rows,), rng.for_batch("label_drop") >= config.label_drop)


def noised(batch: Batch, process: Process, rng: BatchRandom, config: ObjectiveConfig) -> Noised:
    """Sample t, eps and label drops, and compute x_t."""
    device = batch.images.device
    t_host = process.sample_times(rng)  # (B,)
    t = t_host.to(device, non_blocking=True)
    eps = rng.normal("eps", batch.images.shape[1:])
    kept = keep_labels(rng, config)
    labels = torch.where(kept.to(device, non_blocking=True), batch.labels, NULL_LABEL)
    return Noised(
        x_t=process.perturb(batch.images, t, eps),
        t=t,
        t_host=t_host,
        target=process.target(batch.images, t, eps),
        labels=labels,
        kept=kept,
        eps=eps,
        extra=batch.extra,
    )
