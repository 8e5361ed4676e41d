"""A worker's copy of the state of a small network in training, beside what DeepSpeed assembles itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn

from whipray.trainers.engine import Engine
from whipray.trainers.engine_config import EngineConfig
from whipray.trainers.optimizer import OptimizerConfig
from whipray.trainers.state_copy import WrittenShare

COLLECTIVES = (
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_reduce",
    "all_to_all_single",
    "broadcast",
    "gather",
    "reduce_scatter_tensor",
)


class Odd(nn.Module):
    """Sizes that neither two nor three workers divide, one of them above what ZeRO 3 keeps whole."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(353, 347)
        self.frozen = nn.Linear(347, 5)
        self.frozen.requires_grad_(False)
        self.narrow = nn.Linear(347, 1, bias=False)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, _time: Tensor, _labels: Tensor) -> Tensor:
        hidden = self.wide(x.flatten(1))
        return self.scale * (self.narrow(hidden) + self.frozen(hidden).sum(1, keepdim=True))


@dataclass(frozen=True)
class Copied:
    """What one worker copied and wrote."""

    share: WrittenShare
    tensors: dict[str, Tensor]
    """Of its files."""
    full: dict[str, Tensor]
    """All, as DeepSpeed assembles them."""
    collectives: dict[str, int]
    """How often each kind was called while the state was copied."""


def copied(stage: int) -> Copied:
    """Train three steps in the current process group, and copy the state."""
    torch.manual_seed(0)
    engine = Engine(
        Odd(),
        EngineConfig(zero_stage=stage),
        OptimizerConfig(ema_profiles=(0.1,)),
        micro_batch=2,
        accumulation=1,
        device=torch.device("cpu"),
        image_shape=(1, 1, 353),
    )
    for step in range(3):
        torch.manual_seed(10 * step + dist.get_rank())
        zero = torch.zeros(2)
        engine.backward(
            engine.predict(torch.randn(2, 1, 1, 353), zero, zero.long()).square().mean()
        )
        engine.step(1e-3, {"ema": 0.5, "ema_0.1": 0.9})
    counts: dict[str, int] = {}

    def counted(name: str, call: Any, *args: Any, **options: Any) -> Any:
        counts[name] = counts.get(name, 0) + 1
        return call(*args, **options)

    try:
        patches = [
            patch.object(dist, name, partial(counted, name, getattr(dist, name)))
            for name in COLLECTIVES
        ]
        for each in patches:
            each.start()
        state = engine.state.copy()
        for each in patches:
            each.stop()
        full = {
            f"{kind}/{name}": engine.state.full(p, kind).detach().clone()
            for kind in engine.state.kinds
            for name, p in engine.trained.items()
        }
        with TemporaryDirectory() as folder:
            share = state.write(Path(folder))
            tensors = {
                name: tensor.clone()
                for file in share.files
                for name, tensor in load_file(Path(folder) / file).items()
            }
    finally:
        engine.close()
    return Copied(share, tensors, full, counts)
