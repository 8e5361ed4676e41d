"""The collectives of a step of the papers' U-Net, on this worker of a group."""

from __future__ import annotations

import torch

from whipray.trainers.engine import Engine
from whipray.trainers.engine_config import EngineConfig
from whipray.trainers.networks import UNetConfig
from whipray.trainers.optimizer import OptimizerConfig

from .model import Collective
from .trace import Recorder

SIDE = 8
"""Pixels: what is computed does not matter."""


def collectives_of(stage: int) -> tuple[int, list[Collective]]:
    """Return the number of parameters, and the collectives of the second step."""
    shape = (3, SIDE, SIDE)
    engine = Engine(
        UNetConfig(attention_resolutions=(4,)).build(shape, 10),
        EngineConfig(zero_stage=stage),  # type: ignore[arg-type]
        OptimizerConfig(),
        micro_batch=1,
        accumulation=1,
        device=torch.device("cpu"),
        image_shape=shape,
    )
    images, labels = torch.zeros(1, *shape), torch.zeros(1, dtype=torch.int64)
    for _ in range(2):
        recorder = Recorder()
        with recorder:
            engine.backward(engine.predict(images, labels.float(), labels).square().sum())
            engine.step(0.0, {"ema": 0.5})
    parameters = sum(shape.numel() for shape in engine.state.shapes.values())
    engine.close()
    return parameters, recorder.collectives
