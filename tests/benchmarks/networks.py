"""A training step of a network against a plain PyTorch loop over the same one: CPU time on one thread.

Ours is the step of the platform's loop: images, noise that is addressed by row, process, objective, engine,
Adam with the average of the weights. The plain loop has no more than its mathematics needs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from measure import Result, cpu_seconds, hand_over, ratios
from torch import Tensor, nn
from workload import build, random_images, step

from whipray.trainers.loop import Training

ROUNDS = 9
STEPS = 3  # a round
BATCH = 8
CPU = torch.device("cpu")
MODELS: dict[str, dict[str, Any]] = {  # narrower than published, at 32 px
    "ddpmpp": {"base_channels": 32},
    "dit": {"width": 192, "depth": 6, "heads": 3},
}
AT_LEAST = 0.95
"""Images a second, ours over the plain loop's. An even step would be 1."""

Noised = tuple[Tensor, Tensor, Tensor]
"""What the network is given, its time, and what it should say."""


def edm(x_0: Tensor) -> Noised:
    """Karras et al. 2022, table 1 and eq. 8, with sigma_data 0.5."""
    sigma = (-1.2 + 1.2 * torch.randn(len(x_0), 1, 1, 1)).exp()
    eps = torch.randn_like(x_0)
    scale = (sigma**2 + 0.25).rsqrt()
    target = (sigma / 0.5 * x_0 - 0.5 * eps) * scale
    return scale * (x_0 + sigma * eps), sigma.log().flatten() / 4, target


def flow(x_0: Tensor) -> Noised:
    """The straight path from images to noise."""
    time = torch.rand(len(x_0), 1, 1, 1)
    eps = torch.randn_like(x_0)
    return (1 - time) * x_0 + time * eps, 1000 * time.flatten(), eps - x_0


PROCESSES: dict[str, Callable[[Tensor], Noised]] = {"edm": edm, "flow": flow}


class PlainLoop:
    """A network and everything that its training needs."""

    def __init__(self, network: nn.Module, noised: Callable[[Tensor], Noised]) -> None:
        self.network, self.noised = network.train(), noised
        self.average = [p.detach().clone() for p in network.parameters()]
        self.optimizer = torch.optim.Adam(network.parameters(), lr=2e-4)
        images = random_images(8 * BATCH)
        self.images, self.labels = torch.from_numpy(images.images), torch.from_numpy(images.labels)

    def step(self, number: int) -> None:  # noqa: ARG002
        """One step on random images."""
        rows = torch.randint(len(self.images), (BATCH,))
        x_0 = self.images[rows].float() / 127.5 - 1
        x, time, target = self.noised(x_0.contiguous(memory_format=torch.channels_last))
        loss = F.mse_loss(self.network(x, time, self.labels[rows]), target)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        torch._foreach_lerp_(self.average, [p.detach() for p in self.network.parameters()], 1e-4)


def with_plain_loop(model: str, process: str) -> tuple[Training, PlainLoop]:
    """Two trainings of one network, each with weights of its own."""
    ours = build(
        {"name": "ddpm"},
        {},
        model={"name": model, **MODELS[model]},
        process={"name": process},
        batch=BATCH,
        device=CPU,
    )
    plain = ours.config.model.build((3, 32, 32), 10)
    return ours, PlainLoop(plain, PROCESSES[process])


def main() -> None:
    torch.set_num_threads(1)
    results = []
    for model, process in (("ddpmpp", "edm"), ("dit", "flow")):
        ours, plain = with_plain_loop(model, process)
        times = cpu_seconds({"ours": partial(step, ours), "plain": plain.step}, ROUNDS, STEPS)
        ours.close()
        what = f"images/s, {model} with {process} at 32 px"
        faster = ratios(times["plain"], times["ours"])
        results += [
            Result(what, [BATCH / s for s in times["ours"]], "images/s of CPU"),
            Result(f"{what}, over a plain loop", faster, "x", at_least=AT_LEAST),
        ]
    hand_over(results)


if __name__ == "__main__":
    main()
