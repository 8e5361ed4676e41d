"""Data of which the best denoiser is known: one pixel, a common class and a rare one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from whipray.trainers.processes import EDMConfig, FlowConfig, Level, Process, VPConfig

SHARES, MEANS, STDS = (torch.tensor(v).double() for v in ((0.98, 0.02), (-0.3, 0.8), (0.2, 0.05)))
MEAN = float((SHARES * MEANS).sum())
VARIANCE = float((SHARES * (STDS**2 + MEANS**2)).sum()) - MEAN**2
PROCESSES = {
    "vp": VPConfig(),
    "cosine": VPConfig(schedule="cosine", prediction="v"),
    "edm": EDMConfig(),
    "flow": FlowConfig(),
}


def best_x_0(x: Tensor, alpha: float, sigma: float) -> Tensor:
    """E[x_0 | x] for x = alpha x_0 + sigma eps, by Bayes' rule over the two classes; float64."""
    variance = alpha**2 * STDS**2 + sigma**2
    gap = x.double()[..., None] - alpha * MEANS
    of_class = (SHARES.log() - variance.log() / 2 - gap**2 / (2 * variance)).softmax(-1)
    return (of_class * (MEANS + alpha * STDS**2 / variance * gap)).sum(-1)


def best_denoiser(x_t: Tensor, level: Level) -> Tensor:
    """The same, as samplers ask for it."""
    return best_x_0(x_t, level.alpha, level.sigma)


def best_network(process: Process) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A network for `process` that has learned the data."""
    times = {"vp": lambda c: c, "edm": lambda c: (4 * c).exp(), "flow": lambda c: c / 1000}
    time_of = times[process.config.name]

    def network(x: Tensor, condition: Tensor, labels: Tensor) -> Tensor:
        assert len(x) == len(condition) == len(labels)
        level = process.level(float(time_of(condition[0].double())))
        t = torch.full((len(x),), level.t, dtype=torch.float64)
        scale = float((process.network_input(torch.ones(len(x), 1, 1, 1), t)[0])[0])
        x_t = x.double() / scale
        skip, out = (c[:, None, None, None] for c in process.skip_and_out(t))
        return ((best_x_0(x_t, level.alpha, level.sigma) - skip * x_t) / out).float()

    return network


def quantiles(count: int) -> Tensor:
    """Standard normal noise without chance, (count, 1, 1, 1) float64."""
    return torch.special.ndtri((torch.arange(count).double() + 0.5) / count)[:, None, None, None]
