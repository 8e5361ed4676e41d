"""Floating-point operations of a training step, counted operator by operator; nothing is computed."""

from __future__ import annotations

import json
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from whipray.trainers.networks import UNet, UNetConfig
from whipray.trainers.objectives import Batch
from whipray.trainers.randomness import BatchRandom
from whipray.trainers.trainer_config import TrainerConfig

ROWS = 8
"""Rows of the counted batch: one whole block, so that thinning has its share of it."""
META = torch.device("meta")


def of_training(config: TrainerConfig, side: int) -> float:
    """Of forward and backward for one image of `side` x `side` pixels.

    Counted are convolutions, matrix products and attention, a multiplication and an addition as two.
    """
    parts = {"model", "objective"}  # batch and precision change nothing
    return _counted(json.dumps(config.model_dump(mode="json", include=parts)), side)


@cache
def _counted(parts: str, side: int) -> float:
    found = {"data": {"source": "digits"}, "training": {"images": 1}, **json.loads(parts)}
    config = TrainerConfig.model_validate(found)
    classes = 10
    with META:
        network = config.model.build((3, side, side), classes)
        config.objective.prepare(network)
        images = torch.zeros(ROWS, 3, side, side)
        labels = torch.zeros(ROWS, dtype=torch.int64)
    process = config.process.build(META)
    objective = config.objective.build([10] * classes)
    rng = BatchRandom(0, 0, 0, ROWS, META)
    with FlopCounterMode(display=False) as counter:
        loss = objective(network, Batch(images, labels), process, rng, 0)
        loss.total.backward()
    return float(counter.get_total_flops() / ROWS)


def of_prediction(config: UNetConfig, side: int) -> float:
    """Of one evaluation of a network for one image."""
    with META:
        network = UNet(config, (3, side, side), 10)
        one = torch.zeros(1, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 3, side, side), one, one)
    return float(counter.get_total_flops())
