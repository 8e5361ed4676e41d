"""OC: oriented calibration (Zhang et al. 2024), the base loss of CALL's experiments.

A noisy image x_t may come from other images than its own. The target of row i is the noise that
would lead to x_t from image k of the same global batch (released code, `transfer_x0`):

    sigma^2 = 1 / abar_t - 1        c_i = x_0^i + sigma eps_i = x_t / sqrt(abar_t)
    w_ij = softmax_j( -|| c_i - x_0^j ||^2 / (2 sigma^2) )          j ~ w_i.
    k = j where the gate lets it, else i
    eps'_i = ( x_t - sqrt(abar_t) x_0^k ) / sqrt(1 - abar_t)        L = mean || e(x_t, y_i) - eps'_i ||^2

On any process, sigma is sigma_t / alpha_t, eps' = (x_t - alpha_t x_0^k) / sigma_t, and the target is what the
network should say of x_0^k and eps'.

The gate "t2h" transfers a row to images of its own or a more frequent class only. The label of row i
stays y_i, and so does its gate where the label is dropped. There is no regulariser, and no second
forward pass. w depends on the batch, so it is always the global one, whatever the workers' shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import mse_loss

from ..processes import Process
from ..processes.base import rows
from ..randomness import BatchRandom
from .base import Batch, Loss, Noised, Objective, ObjectiveConfig, Predictor, noised


class OCConfig(ObjectiveConfig):
    """Oriented calibration."""

    name: Literal["oc"] = "oc"
    mode: Literal["t2h", "h2t", "full"] = "t2h"
    """The gate: t2h transfers to images of classes as frequent as the row's or more (the released
    setting), h2t to those as frequent or less, full to any."""
    cutoff: float | None = Field(None, ge=0, le=1)
    """Only rows with t / T below it are transferred; None: all (the released setting). The released code
    counts it in steps, and ignores it in mode full; here it holds in every mode."""
    tr_tau: float = 0.0
    """Power of the class frequency p(y_j) that weighs w_ij, for mode full only, as released; that
    code's variant has 1. A batch holds classes by their frequency already: 1 squares that prior, -1
    balances it, 0 leaves it."""
    estimator: Literal["sample", "expected"] = "sample"
    """sample: one k per row (the papers). expected: the mean of that target over k in closed form; the
    gradient keeps its mean and has less variance. Ours."""

    @model_validator(mode="after")
    def _ungated(self) -> OCConfig:
        if self.tr_tau != 0 and self.mode != "full":
            raise ValueError("tr_tau needs mode=full: that variant has no gate")
        return self

    def build(self, class_counts: Sequence[int]) -> OC:
        """Build the objective for the class counts of the training data."""
        return OC(self, class_counts)


class OC(Objective):
    """Denoising towards transferred targets."""

    def __init__(self, config: OCConfig, class_counts: Sequence[int]) -> None:
        self.config = config
        self.counts = torch.tensor(class_counts, dtype=torch.float64)  # (num_classes,)

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
        target, moved = self.transfer(n, batch, process, rng)
        h = model(n.x_t, n.t, n.labels, **n.extra)  # (B, C, H, W)
        denoising = mse_loss(h, target)
        return Loss(denoising, {"denoising": denoising.detach()}, {"transferred": moved})

    @torch.no_grad()
    def transfer(
        self, n: Noised, batch: Batch, process: Process, rng: BatchRandom
    ) -> tuple[Tensor, Tensor]:
        """Return the transferred targets, and the share of rows that is transferred to other images.

        Returns:
            target (B, C, H, W) float32, and the share, () float32.
        """
        whole = batch.whole()
        x_0 = batch.images.flatten(1).double()  # (B, D)
        others = whole.images.flatten(1).double()  # (N, D)
        own = rng.first_row + torch.arange(len(x_0), device=x_0.device)  # (B,) in [0, N)
        w = self.posterior(n, x_0, others, whole.labels, process)  # (B, N)
        open_to = self.gate(batch.labels, whole.labels, process.progress(n.t))  # (B, N)
        if self.config.estimator == "sample":
            u = rng.uniform("transfer").to(w.device, non_blocking=True)  # (B, 1) in [0, 1)
            edges = w.cumsum(1)
            j = torch.searchsorted(edges, u * edges[:, -1:], right=True).clamp(max=len(others) - 1)
            k = torch.where(open_to.gather(1, j), j, own[:, None])[:, 0]  # (B,)
            away = x_0 - others[k]  # (B, D), exactly 0 where k = i
            moved = (k != own).float().mean()
        else:
            w = w * open_to  # what the gate blocks stays with i
            away = w.sum(1, keepdim=True) * x_0 - w @ others  # (B, D)
            moved = (w.sum(1) - w.gather(1, own[:, None])[:, 0]).mean().float()
        away = away.float().view_as(batch.images)
        # eps' = (x_t - alpha x_0^k) / sigma, without the loss of digits at little noise
        ratio = rows(process.alpha(n.t) / process.sigma(n.t))
        eps = n.eps + ratio * away  # (B, C, H, W)
        return process.target(batch.images - away, n.t, eps), moved

    def posterior(
        self, n: Noised, x_0: Tensor, others: Tensor, labels: Tensor, process: Process
    ) -> Tensor:
        """Return w_ij, (B, N) float64; rows sum to 1.

        All distances of a row contain || c_i ||^2, which the softmax cancels. What remains is one matrix
        product, without (B, N, D) differences, and accurate to 1e-11 in float64 for images of norm 50;
        sigma^2 is 1e-4 at t = 0, for which float32 is not accurate enough.
        """
        sigma = (process.sigma(n.t) / process.alpha(n.t))[:, None]  # (B, 1)
        c = x_0 + sigma * n.eps.flatten(1)  # (B, D) float64
        distances = others.square().sum(1) - 2 * c @ others.T  # || c_i - x_0^j ||^2 - || c_i ||^2
        exponents = -distances / (2 * sigma**2)  # (B, N)
        if self.config.tr_tau:
            frequencies = (self.counts / self.counts.sum()).to(x_0.device, non_blocking=True)
            exponents = exponents + self.config.tr_tau * frequencies[labels].log()
        return exponents.softmax(1)

    def gate(self, own: Tensor, labels: Tensor, progress: Tensor) -> Tensor:
        """Return which images each row may be transferred to, (B, N) bool.

        Args:
            own: y_i of the rows (B,), also where it is dropped.
            labels: y_j of the global batch, (N,).
            progress: t / T, (B,).
        """
        counts = self.counts.to(own.device, non_blocking=True)
        mine, theirs = counts[own][:, None], counts[labels]
        match self.config.mode:
            case "t2h":
                allowed = theirs >= mine
            case "h2t":
                allowed = theirs <= mine
            case "full":
                allowed = torch.ones_like(theirs >= mine)
        if self.config.cutoff is not None:
            allowed = allowed & (progress < self.config.cutoff)[:, None]
        return allowed
