"""The predicted efficiency of two networks on nodes of 8 GPUs, as Markdown for docs/clusters.md.

Nothing of it was measured on several GPUs. A step on one H100 is measured for the first network, and assumed for the
second; what ZeRO adds to the host's work is this machine's ratio; collectives are those that DeepSpeed calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from whipray.tests.support.workers import Workers

from .model import Cluster, Collective, Link, Step
from .unet_trace import collectives_of

NODES = (1, 2, 4, 16, 64)
GPUS = 8
INSIDE = Link(350e9, 10e-6)
"""NVLink of an H100 as all-reduce sees it; assumed."""
BETWEEN = {
    "25 Gb/s": Link(25e9 / 8, 30e-6),
    "100 Gb/s": Link(100e9 / 8, 30e-6),
    "3,200 Gb/s": Link(3200e9 / 8, 15e-6),
}
"""Of a node: its whole network."""
STAGES = (0, 1, 2, 3)
HOST = {0: 1.0, 1: 1.375, 2: 1.44, 3: 3.56}
"""Host work of a step over that at stage 0: 32, 44, 46 and 114 ms on the machine that it was counted on."""


@dataclass(frozen=True)
class Network:
    """A network on one GPU."""

    name: str
    parameters: float
    device_s: float
    """Seconds of a step that the GPU works."""
    host_s: float
    """Seconds of a step that the host works, at stage 0."""

    def alone(self, stage: int) -> float:
        """Return the seconds of a step on one GPU: the longer of the two."""
        return max(self.device_s, self.host_s * HOST[stage])

    def step(self, stage: int, traced: list[Collective], of: float) -> Step:
        """Return its step, with collectives traced on a network of `of` parameters, scaled by the bytes."""
        scaled = [replace(each, bytes=round(each.bytes * self.parameters / of)) for each in traced]
        alone = self.alone(stage)
        return Step(alone, scaled, OVERLAPPED[stage])


OVERLAPPED = {0: 2 / 3, 1: 2 / 3, 2: 2 / 3, 3: 2 / 3}
"""Share of a step behind which gradients are sent: the backward pass."""
NETWORKS = (
    Network("CIFAR's, 35.7 M, 128 images a GPU", 35.75e6, 0.0804, 0.0623),
    Network("316 M at 64x64, 64 images a GPU", 316.1e6, 64 * 627.4e9 / (0.15 * 711e12), 0.100),
)
"""Steps: DDPM in bf16 measured on one H100 (docs/gpu.md); 15 % of its matrix product's rate, and 100 ms of host,
assumed."""


def rows() -> Iterator[str]:
    """Yield the lines of the table."""
    with Workers(2) as workers:
        traced = {stage: workers.run(collectives_of, stage)[0] for stage in STAGES}
    for network in NETWORKS:
        for name, between in BETWEEN.items():
            yield f"\n{network.name}; {name} a node\n"
            head = " | ".join(f"{n} node{'s' if n > 1 else ''}" for n in NODES)
            yield f"| ZeRO | alone | {head} |"
            yield f"|---|---|{'---|' * len(NODES)}"
            for stage in STAGES:
                parameters, collectives = traced[stage]
                step = network.step(stage, collectives, parameters)
                clusters = [Cluster(n, GPUS, INSIDE, between) for n in NODES]
                shown = " | ".join(f"{100 * step.efficiency(each):.0f} %" for each in clusters)
                yield f"| {stage} | {1000 * step.alone:.0f} ms | {shown} |"
