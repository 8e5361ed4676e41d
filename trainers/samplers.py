"""Samplers: pure functions of one signature, and guidance as one function.

    sampler(denoise, x_T, schedule, noise, config) -> x_0   # (B, C, H, W), not yet clipped

Every random number belongs to an image, the n-th of its class (`image_noise`), so image n of a class
is the same whatever is generated with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from .config import Config
from .diffusion import Schedule
from .randomness import BatchRandom, derive_seed

NULL_LABEL = -1
"""The label of an unconditional prediction: nothing is added to the time embedding."""

Model = Callable[..., Tensor]
"""(x_t (B, C, H, W), t (B,), labels (B,)) -> output (B, C, H, W)."""
Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x_t, t (B,)) -> output, label and guidance already in it."""
Noise = Callable[[int], Tensor]
"""step number -> standard normal noise (B, C, H, W)."""


class SamplingConfig(Config):
    """How images are generated from a trained model."""

    sampler: Literal["ddpm", "ddim"] = "ddim"
    """ddpm: ancestral, Ho et al. algorithm 2, all T steps; ddim: Song et al. 2021."""
    steps: int = Field(50, ge=1)
    """Steps of ddim; ddpm always takes all T."""
    omega: float = Field(0.0, ge=0)
    """Guidance strength: eps_c + omega (eps_c - eps_u). 0 is plain conditional sampling; the
    other common convention, eps_u + s (eps_c - eps_u), has s = 1 + omega."""
    spacing: Literal["leading", "trailing"] = "trailing"
    """Times of ddim, here for 50 steps of T = 1000, as Lin et al. 2024, table 2, name them. trailing: 999,
    979 .. 19, then x_0: it starts where x_T is noise and removes all of it. leading: 980, 960 .. 0, and
    the image is what is left at abar_0, as in the released code of OC, on which CALL builds: it starts
    from noise that no x_980 is, so prefer it only for numbers comparable with their tables."""
    eta: float = Field(0.0, ge=0, le=1)
    """Noise of ddim; 0 is deterministic."""
    variance: Literal["fixed_large", "fixed_small"] = "fixed_large"
    """Of ddpm: beta_t (as CBDM's released code) or the posterior's."""
    clip_x0: bool = True
    """Clip the predicted x_0 to [-1, 1] at each step, as Ho et al.; CBDM's released code does not
    (its clipping comes too late to act)."""
    weights: Literal["merged", "general"] = "merged"
    """Of a CALL model: merged is all of it, general is theta_g alone, without the reserved capacity
    (CALL table 4)."""
    batch_size: int = Field(256, ge=1)
    """Images generated at once; does not change the images."""

    @model_validator(mode="after")
    def _leads_somewhere(self) -> SamplingConfig:
        if self.sampler == "ddim" and self.spacing == "leading" and self.steps == 1:
            raise ValueError("spacing=leading ends where it starts with steps=1: take more steps")
        return self

    @property
    def unused(self) -> tuple[str, ...]:
        """Settings that the sampler does not read."""
        return ("steps", "spacing", "eta") if self.sampler == "ddpm" else ("variance",)

    def effective(self, timesteps: int) -> SamplingConfig:
        """Return a config of the same images in which settings that the sampler ignores are at defaults.

        Args:
            timesteps: T of the model.
        """
        steps = timesteps if self.sampler == "ddpm" else min(self.steps, timesteps)
        defaults = {name: type(self).model_fields[name].default for name in self.unused}
        return self.model_copy(update={**defaults, "steps": steps})


def guided(model: Model, labels: Tensor, omega: float) -> Denoise:
    """Apply classifier-free guidance, Ho & Salimans 2022 as CBDM section 3.1 writes it.

    Both halves go through the network in one batch; at omega = 0 there is no unconditional half. A
    network that embeds omega (TCFG) takes it as an input and needs one call.
    The outputs may be eps, x_0 or v: the three are affine in one another at a given x_t, so guiding
    one guides them all.

    Args:
        labels: (B,) int64, `NULL_LABEL` for an unconditional image.
    """
    if omega == 0:
        return lambda x_t, t: model(x_t, t, labels)
    if getattr(model, "guidance", None) is not None:
        omega_input = torch.where(
            labels == NULL_LABEL, -1.0, omega
        )  # (B,), null labels are not guided
        return lambda x_t, t: model(x_t, t, labels, omega=omega_input)
    both = torch.cat([labels, torch.full_like(labels, NULL_LABEL)])

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        conditional, unconditional = model(x_t.repeat(2, 1, 1, 1), t.repeat(2), both).chunk(2)
        return conditional + omega * (conditional - unconditional)

    return denoise


def ddpm(
    denoise: Denoise, x_T: Tensor, schedule: Schedule, noise: Noise, config: SamplingConfig
) -> Tensor:
    """Sample ancestrally, Ho et al. algorithm 2, over all T steps."""
    betas, abar = schedule.betas, schedule.alphas_bar
    abar_prev = torch.cat([abar.new_ones(1), abar[:-1]])
    posterior_variance = betas * (1 - abar_prev) / (1 - abar)  # eq. 7
    variance = betas if config.variance == "fixed_large" else posterior_variance
    x_0_weight = abar_prev.sqrt() * betas / (1 - abar)  # eq. 7
    x_t_weight = (1 - betas).sqrt() * (1 - abar_prev) / (1 - abar)  # eq. 7
    x_t = x_T
    for i in reversed(range(schedule.timesteps)):
        t = torch.full((len(x_t),), i, device=x_t.device)
        x_0 = schedule.to_x0(denoise(x_t, t), x_t, t)
        if config.clip_x0:
            x_0 = x_0.clamp(-1, 1)
        x_t = x_0_weight[i].float() * x_0 + x_t_weight[i].float() * x_t
        if i > 0:  # the last step adds no noise
            x_t = x_t + variance[i].sqrt().float() * noise(schedule.timesteps - i)
    return x_t


def ddim(
    denoise: Denoise, x_T: Tensor, schedule: Schedule, noise: Noise, config: SamplingConfig
) -> Tensor:
    """Sample by DDIM, Song et al. 2021 eq. 12, in any number of steps up to T; eps is of the clipped x_0."""
    steps, x_t = min(config.steps, schedule.timesteps), x_T
    abar = torch.cat([schedule.alphas_bar.new_ones(1), schedule.alphas_bar])  # abar[t + 1] = abar_t
    for k, (now, following) in enumerate(
        pairwise(ddim_times(config.spacing, steps, schedule.timesteps))
    ):
        t = torch.full((len(x_t),), now, device=x_t.device)
        x_0 = schedule.to_x0(denoise(x_t, t), x_t, t)
        if config.clip_x0:
            x_0 = x_0.clamp(-1, 1)
        eps = schedule.to_eps(x_0, x_t, t)  # after clipping, so that the two agree with x_t
        abar_t, abar_s = abar[now + 1], abar[following + 1]
        sigma = config.eta * ((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)).sqrt()  # eq. 16
        direction = (1 - abar_s - sigma**2).clamp(min=0).sqrt()
        x_t = abar_s.sqrt().float() * x_0 + direction.float() * eps  # eq. 12
        if config.eta > 0 and following >= 0:
            x_t = x_t + sigma.float() * noise(k + 1)
    return x_t


def ddim_times(spacing: str, steps: int, timesteps: int) -> list[int]:
    """Return the times of DDIM's states, from the first to the last; -1 is x_0 itself.

    The released code of OC takes one step more with `leading`, from 0 to 0, which changes nothing.
    """
    if spacing == "leading":
        return [timesteps * k // steps for k in reversed(range(steps))]  # .., 0
    return [round(timesteps * (steps - k) / steps) - 1 for k in range(steps + 1)]  # T-1, .., -1


SAMPLERS = {"ddpm": ddpm, "ddim": ddim}


def occurrences(labels: Tensor) -> Tensor:
    """Return how many rows before each one have its label, (N,) int64: the index within the class."""
    order = labels.argsort(stable=True)
    of_class = labels[order]
    first = torch.searchsorted(of_class, of_class)  # where each row's class begins
    indices = torch.empty_like(labels)
    indices[order] = torch.arange(len(labels), device=labels.device) - first
    return indices


def image_noise(
    seed: int, labels: Tensor, indices: Tensor, shape: Sequence[int], device: torch.device
) -> Noise:
    """Return noise in which a row is a function of (seed, its label, its index, step) alone.

    Args:
        labels: (B,) int64.
        indices: (B,) int64, at least 0: which image of its class each row is.
        shape: (C, H, W).
    """
    order = torch.from_numpy(np.lexsort((indices.cpu().numpy(), labels.cpu().numpy())))
    row, following = order[:-1], order[1:]
    same_class = labels[row] == labels[following]
    follows = same_class & (indices[row] + 1 == indices[following])
    breaks = (~follows).nonzero().flatten().add(1).tolist()
    runs = order.tensor_split(breaks)  # rows of one class with consecutive indices
    begins = [(int(labels[run[0]]), int(indices[run[0]])) for run in runs]

    def noise(step: int) -> Tensor:
        sampled = [
            BatchRandom(derive_seed(seed, "sampling", label), step, first, len(run), device).normal(
                "x", shape
            )
            for run, (label, first) in zip(runs, begins, strict=True)
        ]
        rows = torch.empty((len(labels), *shape), device=device)
        rows[order.to(device)] = torch.cat(sampled)
        return rows

    return noise


@torch.inference_mode()
def sample(
    model: Model,
    labels: Tensor,
    shape: tuple[int, int, int],
    schedule: Schedule,
    config: SamplingConfig,
    *,
    seed: int,
    indices: Tensor | None = None,
    device: torch.device | str = "cpu",
    on_progress: Callable[[int], None] = lambda _done: None,
) -> Tensor:
    """Generate one image for each label.

    Args:
        model: in evaluation mode, so that no dropout is active.
        labels: (N,) int64 in [0, num_classes), or `NULL_LABEL`.
        shape: (C, H, W).
        seed: an image is a function of (seed, its label, its index) alone, whatever else is
            generated with it, in whatever order and in however many batches or processes.
        indices: (N,) int64, which image of its class each row is; counted from 0 where not given.
        on_progress: called with the number of images generated so far.

    Returns:
        (N, C, H, W) float32 in [-1, 1], on the CPU.
    """
    device = torch.device(device)
    run = SAMPLERS[config.sampler]
    indices = occurrences(labels) if indices is None else indices
    images = []
    for first in range(0, len(labels), config.batch_size):
        rows = slice(first, first + config.batch_size)
        batch_labels = labels[rows].to(device)
        noise = image_noise(seed, labels[rows], indices[rows], shape, device)
        x_0 = run(guided(model, batch_labels, config.omega), noise(0), schedule, noise, config)
        images.append(x_0.clamp(-1, 1).cpu())
        on_progress(first + len(batch_labels))
    return torch.cat(images) if images else torch.empty((0, *shape))
