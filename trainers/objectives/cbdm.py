"""CBDM: class-balancing diffusion models (Qin et al., CVPR 2023).

Eq. 4, with h = e(x_t, y), h' = e(x_t, y'), sg the stop-gradient, y' sampled from a label set Y:

    L = || h - eps ||^2 + tau (t / T) ( || h - sg h' ||^2 + gamma || sg h - h' ||^2 )

The paper writes the weight as tau_0 t with tau_0 = 0.001, its released code as tau t / T with
tau = 1: the same at T = 1000. Here tau is the code's. All norms are means over pixels, which puts
one factor before all three terms. A row whose label was dropped has no regulariser.

The paper has eps and discrete steps in mind. On any process, t / T is how far along a time is
(`Process.progress`), and h and h' are what the network says, unless `metric` has it otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn.functional import mse_loss

from ..errors import UsageProblem
from ..processes import Process
from ..randomness import BLOCK, BatchRandom
from .base import Batch, Loss, Noised, Objective, ObjectiveConfig, Predictor, noised


class CBDMConfig(ObjectiveConfig):
    """Class-balancing regularisation."""

    name: Literal["cbdm"] = "cbdm"
    tau: float = Field(1.0, ge=0)
    """Weight of the regulariser, tau t / T: 1.0 is the paper's tau_0 = 0.001 at T = 1000. Another process
    trains on other noise and so has another best tau: search it again."""
    metric: Literal["output", "eps"] = "output"
    """The space in which h and h' are compared. The paper's table 5 has EDM and does not say. output: what the
    network says, as the base loss itself; all terms keep one unit, and a pull towards y' is worth as much
    denoising as in DDPM. eps: the noise that each output implies. The two are one for eps-prediction. On edm,
    || d output ||^2 is (sigma^2 + sd^2) / sd^2 times || d eps ||^2: 5 times at sigma 1, 25,601 times at 80, so
    that eps hardly acts at the high noise where classes are decided."""
    gamma: float = Field(0.25, ge=0)
    """Weight of the commitment term, the gradient into h'. At 0 the y' half needs no gradients and
    a step costs a third less."""
    label_set: Literal["train", "sqrt", "balanced"] = "train"
    """Y, by which y' is sampled: class counts (the released code), their square roots (the paper's
    best from scratch), or uniformly (its best for fine-tuning). The counts are the data's, also
    where the images themselves are re-sampled."""
    label_samples: int = Field(1, ge=1)
    """Labels y' per image; the regulariser is their mean (eq. 4 averages over Y, algorithm 1 takes one)."""
    dropout_masks: Literal["independent", "shared"] = "independent"
    """Whether h and h' share the same dropout masks. Independent ones, as in the released code, add
    dropout's own noise to the regulariser, also where y' = y."""
    thin: float = Field(1.0, gt=0, le=1)
    """Share of the rows that go through the y' half, sampled in proportion to t, so that loss and
    gradient keep their mean and only gain variance. Ours, not the paper's; 1 is exact."""

    @field_validator("thin")
    @classmethod
    def _whole_rows(cls, value: float) -> float:
        if (value * BLOCK) % 1:
            raise ValueError(f"must be a multiple of 1/{BLOCK}: rows are thinned in blocks")
        return value

    def build(self, class_counts: Sequence[int]) -> CBDM:
        """Build the objective for the class counts of the training data."""
        return CBDM(self, class_counts)


class CBDM(Objective):
    """Eq. 4; y and y' go through the network in one batch."""

    def __init__(self, config: CBDMConfig, class_counts: Sequence[int]) -> None:
        counts = torch.tensor(class_counts, dtype=torch.float64)  # (num_classes,)
        self.config = config
        self.label_weights = {
            "train": counts,
            "sqrt": counts.sqrt(),
            "balanced": torch.ones_like(counts),
        }[config.label_set]

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
        rows_host, weight_host = self.regularised_rows(n, rng, process)
        y_prime_host = self.sample_y_prime(rows_host, rng)
        device = n.x_t.device
        rows = rows_host.to(device, non_blocking=True)  # (R,)
        weight = weight_host.float().to(device, non_blocking=True)  # (R,)
        if self.config.metric == "eps":
            weight = weight * process.eps_per_output(n.t[rows]).square().float()
        y_prime = y_prime_host.to(device, non_blocking=True)  # (R,)

        h, h_prime = self.forward_both(model, n, rows, y_prime)  # (B, C, H, W), (R, C, H, W)
        denoising = mse_loss(h, n.target)
        pull = _weighted(h[rows], h_prime.detach(), weight, len(h))  # eq. 4, second term
        commit = self.config.gamma * _weighted(h_prime, h[rows].detach(), weight, len(h))  # third
        return Loss(
            denoising + pull + commit,
            {
                "denoising": denoising.detach(),
                "regulariser": pull.detach(),
                "commitment": commit.detach(),
            },
        )

    def regularised_rows(
        self, n: Noised, rng: BatchRandom, process: Process
    ) -> tuple[Tensor, Tensor]:
        """Return the rows that have a y' half, and their weights.

        Returns:
            rows (R,) int64, each row `label_samples` times, and weights (R,) float64, tau t / T over
            `label_samples`, or the constant that makes a thinned sample unbiased. Both on the CPU.
        """
        mass = process.progress(n.t_host) * n.kept  # t / T, (B,); dropped labels weigh nothing
        if self.config.thin < 1:
            rows, mass = _systematic(mass, rng, round(self.config.thin * BLOCK))
        else:
            rows = n.kept.nonzero()[:, 0]
            mass = mass[rows]
        samples_each = self.config.label_samples
        weight = self.config.tau * mass / samples_each  # eq. 4: tau t / T
        return rows.repeat_interleave(samples_each), weight.repeat_interleave(samples_each)

    def sample_y_prime(self, rows: Tensor, rng: BatchRandom) -> Tensor:
        """Sample y' for each regularised row, (R,) int64 on the CPU; it may equal y."""
        columns = self.config.label_samples
        y_prime = rng.categorical("y_prime", self.label_weights, columns)  # (B, columns)
        return y_prime[rows, torch.arange(len(rows)) % columns]

    def forward_both(
        self, model: Predictor, n: Noised, rows: Tensor, y_prime: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return h for every row and h' for the regularised ones, at the same x_t and t."""
        shared = self.config.dropout_masks == "shared"
        if self.config.gamma == 0 and not shared:  # h' is a constant: no graph is needed
            h = model(n.x_t, n.t, n.labels, **n.extra)
            with torch.no_grad():  # also without rows: ZeRO 3 runs all workers in lockstep
                return h, model(n.x_t[rows], n.t[rows], y_prime, **n.extra_of(rows))
        own = torch.arange(len(n.x_t), device=rows.device)
        source = torch.cat([own, rows])  # (B + R,): the row that each one copies
        h_both = model(
            n.x_t[source],
            n.t[source],
            torch.cat([n.labels, y_prime]),
            dropout_rows=source if shared else None,
            **n.extra_of(source),
        )
        return h_both[: len(own)], h_both[len(own) :]


def _weighted(a: Tensor, b: Tensor, weight: Tensor, batch_size: int) -> Tensor:
    """Return sum_r weight_r mean_pixels (a_r - b_r)^2 / B, the mean over the batch, () float32."""
    per_row = (a - b).square().flatten(1).mean(1)  # (R,)
    return (weight * per_row).sum() / batch_size


def _systematic(mass: Tensor, rng: BatchRandom, per_block: int) -> tuple[Tensor, Tensor]:
    """Sample `per_block` rows of each block with inclusion proportional to `mass`.

    Systematic sampling: row i is sampled per_block * mass_i / sum(mass) times on average (a heavy
    row perhaps twice), so giving each sampled row the mass sum(mass) / per_block keeps every sum's
    expectation.

    Returns:
        rows (blocks * per_block,) int64 and the mass that each represents, float64.
    """
    if not rng.whole_blocks:
        raise UsageProblem(
            f"thinning needs whole blocks of {BLOCK} rows, not {rng.rows} rows from row "
            f"{rng.first_row}",
            f"let every worker take a multiple of {BLOCK} images at once "
            "(training.batch_size, training.micro_batch), or set objective.thin=1",
        )
    start = rng.for_block("thinning")  # (blocks, 1) in [0, 1)
    by_block = mass.reshape(-1, BLOCK)  # (blocks, BLOCK)
    total = by_block.sum(1, keepdim=True)
    share = torch.where(total > 0, by_block / total.clamp(min=1e-300), 1 / BLOCK)
    edges = share.cumsum(1) * per_block  # (blocks, BLOCK), last is per_block
    ticks = start + torch.arange(per_block)  # (blocks, per_block)
    # Rounding can put the last tick on the last edge, behind which there is no row; just below the edge is the
    # last row with mass, which the last row of the block need not be.
    below = torch.nextafter(edges[:, -1:], edges.new_zeros(()))
    column = torch.searchsorted(edges, torch.minimum(ticks, below), right=True)
    rows = column + BLOCK * torch.arange(len(by_block))[:, None]
    return rows.flatten(), (total / per_block).expand(-1, per_block).flatten()
