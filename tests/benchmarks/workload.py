"""Trainings to be timed: the platform's own, on random 32x32 images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from whipray.trainers.data import Splits
from whipray.trainers.data.packed import PackedImages
from whipray.trainers.devices import join_workers
from whipray.trainers.loop import Training
from whipray.trainers.trainer_config import TrainerConfig


def random_images(count: int, classes: int = 10, side: int = 32) -> PackedImages:
    """Random bytes, in CIFAR's shape if nothing else is asked for, every class alike."""
    generator = np.random.default_rng(0)
    return PackedImages(
        generator.integers(0, 256, (count, 3, side, side), dtype=np.uint8),
        np.arange(count, dtype=np.int64) % classes,
        tuple(str(c) for c in range(classes)),
    )


def build(
    objective: dict[str, Any],
    engine: dict[str, Any],
    *,
    model: dict[str, Any],
    process: dict[str, Any] | None = None,
    batch: int,
    device: torch.device,
) -> Training:
    """A training that is ready to step on random images."""
    images = random_images(8 * batch)
    config = config_of(objective, engine, model=model, process=process, batch=batch)
    join_workers(device)
    return Training(config, Splits(images, images), device, None)


def config_of(
    objective: dict[str, Any],
    engine: dict[str, Any],
    *,
    model: dict[str, Any],
    process: dict[str, Any] | None = None,
    batch: int,
    micro_batch: int | None = None,
) -> TrainerConfig:
    """A training's config; `model` without a name is the U-Net of the papers.

    Unless the objective says so, no label is dropped: every row pays for its whole loss, so that
    ratios can be compared with what the arithmetic asks for.
    """
    return TrainerConfig.model_validate(
        {
            "data": {"source": "digits", "flip": True},  # its images are replaced
            "model": {
                "name": "unet",
                **model,
                "guidance_embedding": objective["name"] == "tcfg",
            },
            "process": process or {"name": "vp"},
            "objective": objective if "base" in objective else {"label_drop": 0.0, **objective},
            "engine": engine,
            "training": {"images": batch, "batch_size": batch, "micro_batch": micro_batch},
        }
    )


def step(training: Training, number: int) -> None:
    """One step as the loop takes it: data, loss, gradients, update."""
    optimizer, batch = training.config.optimizer, training.config.training.batch_size
    after = (number + 1) * batch
    loss = training._loss(number * batch, 0)
    training.engine.backward(loss.total)
    training.engine.step(optimizer.lr_at(after, batch), optimizer.decays_at(after, batch))
