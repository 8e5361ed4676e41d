"""The time of a training step on many GPUs, calculated from measured pieces.

A step is what one GPU does by itself, and the collectives that ZeRO's stage adds. The time of a collective
follows from its bytes, the number of workers, and the bandwidth and latency of the links.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["all_reduce", "all_gather", "reduce_scatter", "reduce", "broadcast"]
REDUCING = ("all_reduce", "reduce", "reduce_scatter")
TINY = 1024
"""Bytes up to which a collective holds no gradients, but a norm or a flag."""


@dataclass(frozen=True)
class Link:
    """What a worker or a node sends through."""

    bandwidth: float
    """Bytes per second in one direction; both directions at once."""
    latency: float
    """Seconds until a message of a few bytes arrives."""


@dataclass(frozen=True)
class Cluster:
    """Nodes of some GPUs each."""

    nodes: int
    gpus: int
    """Of each node."""
    inside: Link
    """Of each GPU to the others of its node."""
    between: Link
    """Of each node to the others; its GPUs share it."""
    factors: Mapping[Kind, float] = field(default_factory=dict)
    """How long a library takes for a collective, over the time of a ring."""

    @property
    def world(self) -> int:
        """Number of workers."""
        return self.nodes * self.gpus


@dataclass(frozen=True)
class Collective:
    """One call of all workers.

    Args:
        kind: of the call.
        bytes: of the whole tensor: what is reduced, or what is there after a gathering.
    """

    kind: Kind
    bytes: int


def passed_on(kind: Kind, world: int) -> float:
    """Return how often the bytes of a collective pass each link of a ring of `world` workers.

    Patarasuk & Yuan 2009: an all-reduce is a reduce-scatter and an all-gather, of (W - 1) / W each.
    """
    once = (world - 1) / world
    return {"all_reduce": 2 * once, "reduce": 1.0, "broadcast": 1.0}.get(kind, once)


def rounds(kind: Kind, world: int) -> int:
    """Return how many messages follow one another in a ring, or in a tree for those with a root."""
    if kind in ("broadcast", "reduce"):
        return math.ceil(math.log2(world))
    return (2 if kind == "all_reduce" else 1) * (world - 1)


def seconds_of(collective: Collective, cluster: Cluster) -> float:
    """Return the time of a collective.

    A ring over nodes enters and leaves each node once, so a node's link carries what a GPU's carries. With many
    workers the messages of a ring cost more latency than those of a tree, which NCCL then takes; a tree sends
    everything twice.
    """
    world = cluster.world
    if world == 1:
        return 0.0
    bandwidth, latency = _weakest(cluster)
    kind = collective.kind
    size = collective.bytes * cluster.factors.get(kind, 1.0)
    ring = size * passed_on(kind, world) / bandwidth + rounds(kind, world) * latency
    if kind != "all_reduce":
        return ring
    tree = 2 * size / bandwidth + 2 * math.ceil(math.log2(world)) * latency
    return min(ring, tree)


def _weakest(cluster: Cluster) -> tuple[float, float]:
    """Return the least bandwidth and the greatest latency on the way of a ring."""
    links = [cluster.inside] if cluster.gpus > 1 else []
    links += [cluster.between] if cluster.nodes > 1 else []
    return min(link.bandwidth for link in links), max(link.latency for link in links)


@dataclass(frozen=True)
class Step:
    """A step of one GPU, and what it says to the others.

    Args:
        alone: seconds of the step without communication, at the same ZeRO stage.
        collectives: of a step, in the world that is calculated for.
        overlapped: share of `alone` in which gradients become known and are sent meanwhile, of the backward pass
            mostly; 0 where the step waits for each collective.
    """

    alone: float
    collectives: Sequence[Collective]
    overlapped: float = 0.0

    def communication(self, cluster: Cluster) -> float:
        """Return the seconds of all collectives, one after the other."""
        return sum(seconds_of(each, cluster) for each in self.collectives)

    def hidden(self, cluster: Cluster) -> float:
        """Return the seconds of communication for which nothing waits.

        Gradients are sent in buckets. The first is known after its share of the backward pass, and the last is
        sent after it.
        """
        buckets = [each for each in self.collectives if each.kind in REDUCING and each.bytes > TINY]
        if not buckets:
            return 0.0
        reducing = sum(seconds_of(each, cluster) for each in buckets)
        known = 1 - 1 / len(buckets)  # share of the pass in which something is there to be sent
        return min(known * self.overlapped * self.alone, reducing * known)

    def seconds(self, cluster: Cluster) -> float:
        """Return the time of a step."""
        return self.alone + self.communication(cluster) - self.hidden(cluster)

    def efficiency(self, cluster: Cluster) -> float:
        """Return images per second and GPU over those of one GPU by itself, in (0, 1]."""
        return self.alone / self.seconds(cluster)
