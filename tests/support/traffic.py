"""What the workers of a training send each other in a step, counted where PyTorch hands it to gloo."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from whipray.trainers import gradient_buckets
from whipray.trainers.loop import Training

from .training import BATCH, tiny

WIDE = {"model__base_channels": 24}  # its weights count, what is sent beside them does not
ON_THE_WIRE = {
    "allreduce_": 2,
    "reduce_": 1,
    "broadcast_": 1,
    "_reduce_scatter_base_": 1,
    "_allgather_base_": 1,
}
"""How often each byte of a collective's whole tensor crosses a worker's link, of many workers in a ring."""


class Traffic(TorchDispatchMode):
    """Counts the collectives within this context, by name: how many, and the bytes of their whole tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name = func.name().removeprefix("c10d::")
            self.calls[name] += 1
            self.bytes[name] += max(map(_bytes, args[:2]))  # whole before or after
        return func(*args, **(kwargs or {}))

    def on_the_wire(self) -> int:
        """Return the bytes that cross a worker's link; a collective that is not known is an error."""
        return sum(ON_THE_WIRE[name] * count for name, count in self.bytes.items())


def _bytes(value: Any) -> int:
    tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
    return sum(t.numel() * t.element_size() for t in tensors)


def step(training: Training) -> None:
    """One step, as the loop takes it."""
    after = training.images_seen + BATCH
    for piece in range(training.rows // training.micro):
        training.engine.backward(training._loss(training.images_seen, piece).total)
        training.engine.step(1e-3, training.config.optimizer.decays_at(after, BATCH))
    training.images_seen = after


def opened(changes: dict[str, Any]) -> Training:
    config = tiny(**changes)
    return Training(config, config.data.load(Path()), torch.device("cpu"), None)


def sent_by_a_step(changes: dict[str, Any]) -> float:
    """Bytes on a worker's link in the second step, in units of the fp32 weights; on each worker."""
    training = opened({**WIDE, **changes})
    weights = 4 * sum(shape.numel() for shape in training.engine.state.shapes.values())
    step(training)
    with Traffic() as traffic:
        step(training)
    training.close()
    sent: float = traffic.on_the_wire() / weights
    return sent


def trained_in_buckets(numbers: int) -> tuple[list[Tensor], int, int]:
    """Weights after two steps; buckets, and how many are sent when the last gradients come."""
    sent_before_the_end = []
    with (
        patch.object(gradient_buckets, "SMALLEST", numbers),
        patch.object(gradient_buckets, "LARGEST", numbers),
    ):
        training = opened({"training__micro_batch": 8})
    buckets = training.engine._buckets
    assert buckets is not None
    last = next(iter(training.engine.trained.values()))
    last.register_post_accumulate_grad_hook(
        lambda _: sent_before_the_end.append(len(buckets._sent))
    )
    for _ in range(2):
        step(training)
    weights = [p.detach().clone() for p in training.engine.trained.values()]
    training.close()
    assert sent_before_the_end[0::2] == [0, 0]  # of two pieces, the first sends nothing
    return weights, len(buckets._buckets), sent_before_the_end[-1]
