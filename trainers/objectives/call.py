"""CALL: capacity allocation (ICLR 2025 submission), over any base objective.

Part of the capacity is reserved for the rare classes: theta = theta_g + theta_e, with theta_e the
low-rank products B A of `networks/low_rank.py`. Eq. 5, averaged over pixels as the base loss is:

    L = L_base + lambda mean_i (omega_con - omega_div)(y_i) || e_theta(x_t, y) - e_theta_g(x_t, y) ||^2
    omega_con(y) = C N_y / sum_c N_c        omega_div(y) = C / (N_y sum_c 1 / N_c)

Common classes pull the two predictions together, so that they live in theta_g; rare ones push them
apart, which has no lower bound (see `margin`). On balanced counts both coefficients are 1 and the
term is 0. theta_g and theta_e are trained together, without a stop-gradient (algorithm 1).

Left open by the paper, and chosen here: the reduction (mean over pixels, as the base loss; a sum
would outweigh it C H W times); a dropped label has no term (eq. 4 conditions on y); theta and
theta_g share what comes before the first reserved layer, and the same dropout masks after it, so that
the term is 0 while theta_e is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..config import Config
from ..errors import DivergenceProblem
from ..networks.low_rank import LowRankConfig, add_parts
from ..processes import Process
from ..randomness import BatchRandom
from .base import Batch, Loss, Objective, Predictor, keep_labels
from .cbdm import CBDMConfig
from .ddpm import DDPMConfig
from .oc import OCConfig

RUNAWAY = 10.0
"""Largest reward of rare classes. A network that knows nothing has a denoising loss near 1, on flow near 2, and
its predictions differ by twice that at most."""

Base = Annotated[DDPMConfig | CBDMConfig | OCConfig, Field(discriminator="name")]


class CALLConfig(Config):
    """Capacity allocation."""

    name: Literal["call"] = "call"
    base: Base = OCConfig()
    """The base loss; the paper's is OC, its table 5 also has DDPM and CBDM."""
    weight: float = Field(1.0, ge=0)
    """lambda, of the allocation term; 1 in the paper."""
    reserve: LowRankConfig = LowRankConfig()
    """theta_e: its layers and rank. The paper has the up path, and a tenth of each min(d, k)."""
    margin: float | None = Field(None, gt=0)
    """Largest difference (mean square over pixels) that rare classes are rewarded for, per image.
    Ours, not the paper's: without one their term has no lower bound. None is the paper."""

    def prepare(self, network: nn.Module) -> None:
        """Add the base loss's layers and the reserved capacity."""
        self.base.prepare(network)
        add_parts(network, "expert", self.reserve, "objective.reserve")

    def build(self, class_counts: Sequence[int]) -> CALL:
        """Build the objective for the class counts of the training data."""
        return CALL(self, class_counts)


class CALL(Objective):
    """Eq. 5; theta and theta_g go through the network in one pass."""

    def __init__(self, config: CALLConfig, class_counts: Sequence[int]) -> None:
        self.config = config
        self.base = config.base.build(class_counts)
        self.coefficients = allocation(class_counts).float()

    def __call__(
        self,
        model: Predictor,
        batch: Batch,
        process: Process,
        rng: BatchRandom,
        images_seen: int,
    ) -> Loss:
        """Return the loss of one batch; see `Objective`."""
        both = _Both(model, len(batch.labels))
        base = self.base(both, batch, process, rng, images_seen)
        device = batch.labels.device
        kept = keep_labels(rng, self.config.base).to(device, non_blocking=True)  # (B,)
        coefficient = (
            self.coefficients.to(device, non_blocking=True)[batch.labels] * kept
        )  # (B,), 0 where dropped
        distance = (both.theta - both.theta_g).square().flatten(1).mean(1)  # (B,)
        if self.config.margin is not None:
            rewarded = distance.clamp(max=self.config.margin)
            distance = torch.where(coefficient < 0, rewarded, distance)
        term = self.config.weight * coefficient * distance  # eq. 5, (B,)
        return Loss(
            base.total + term.mean(),
            {**base.terms, "allocation": term.mean().detach()},
            {**base.metrics, "allocation_rare": term.clamp(max=0).mean().detach()},
        )

    def check(self, means: Mapping[str, float]) -> None:
        """Refuse a runaway reward of rare classes; see `Objective`."""
        if not means["allocation_rare"] >= -RUNAWAY:  # also where it is NaN
            raise DivergenceProblem(
                f"CALL's term for rare classes has diverged: {means['allocation_rare']:.3g} beside "
                f"a denoising loss of {means['denoising']:.3g}",
                "it has no lower bound: set objective.margin or lower it, or lower objective.weight "
                "or optimizer.lr; earlier checkpoints are kept",
            )
        self.base.check(means)


class _Both:
    """The network as the base objective calls it; the first call also predicts by theta_g."""

    theta: Tensor
    theta_g: Tensor

    def __init__(self, model: Predictor, rows: int) -> None:
        self.model, self.rows = model, rows
        self.called = False

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor, **extra: Any) -> Tensor:
        if self.called:
            return self.model(x_t, t, labels, **extra)
        self.called = True
        outputs = self.model(x_t, t, labels, num_general=self.rows, **extra)
        self.theta, self.theta_g = outputs[: self.rows], outputs[len(x_t) :]
        return outputs[: len(x_t)]


def allocation(class_counts: Sequence[int]) -> Tensor:
    """Return omega_con - omega_div of each class, (num_classes,) float64; their mean is 0."""
    counts = torch.tensor(class_counts, dtype=torch.float64)  # N_c
    consistency = len(counts) * counts / counts.sum()  # omega_con
    diversity = len(counts) / (counts * (1 / counts).sum())  # omega_div
    return consistency - diversity
