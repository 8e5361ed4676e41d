"""A U-Net of some 300 million parameters at 64x64: images/s, MFU and memory at ZeRO 0 and 1."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from workload import config_of

from whipray.trainers.data import Splits
from whipray.trainers.data.packed import PackedImages
from whipray.trainers.devices import join_workers
from whipray.trainers.loop import Training

from . import flops
from .ceilings import product_flops
from .setting import TOY_MODEL, Setting, parse
from .speed import Running
from .timing import forget_peak, peak_memory, release, synchronize, timed

MODEL = {
    "base_channels": 192,
    "channel_mult": [1, 2, 4, 4],
    "blocks_per_level": 3,
    "attention_resolutions": [16, 8],
    "attention_heads": 4,
}
SIDE = 64
BATCHES = (64, 32, 16)
"""The first that fits is measured."""
LEAST_S = 15.0


def random_splits(side: int) -> Splits:
    """Random images of a size."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (256, 3, side, side), dtype=np.uint8)
    names = tuple(map(str, range(10)))
    images = PackedImages(pixels, np.arange(256, dtype=np.int64) % 10, names)
    return Splits(images, images)


def measure(
    setting: Setting, stage: int, batch: int, ceiling: float
) -> tuple[str, dict[str, float]]:
    """The network's size, and all that is said of it at a stage of ZeRO."""
    model: dict[str, Any] = {**TOY_MODEL, "attention_resolutions": [8]} if setting.toy else MODEL
    side = 16 if setting.toy else SIDE
    engine = {"precision": "bf16", "zero_stage": stage}
    config = config_of({"name": "ddpm"}, engine, model=model, batch=batch)
    join_workers(setting.device)
    forget_peak(setting.device)
    begin = time.perf_counter()
    training = Training(config, random_splits(side), setting.device, None)
    try:
        parameters = sum(p.numel() for p in training.engine.trained.values())
        running = Running(training)
        running.step()
        synchronize(setting.device)
        first = time.perf_counter() - begin
        found = timed(setting, running.step)
        memory = peak_memory(setting.device)
    finally:
        training.engine.close()
    speed = batch / found.seconds
    mfu = 100 * speed * flops.of_training(config, side) / ceiling
    numbers = {"images/s": speed, "% MFU": mfu, **memory, "s to the first step": first}
    return f"{parameters / 1e6:.0f} M parameters at {side}x{side}", numbers


def main(setting: Setting) -> None:
    ceiling = product_flops(setting, torch.bfloat16)
    batches = list(setting.batches if setting.toy else BATCHES)
    for stage in (0, 1):
        if not setting.toy and setting.left() < LEAST_S:
            setting.say(f"ZeRO {stage}", {}, "not reached in the time given")
            continue
        while batches:
            try:
                size, numbers = measure(setting, stage, batches[0], ceiling)
            except torch.cuda.OutOfMemoryError:
                setting.say(f"ZeRO {stage}, {batches.pop(0)}", {}, "does not fit")
            else:
                setting.say(f"DDPM, {size}, {batches[0]}, bf16, eager, ZeRO {stage}", numbers)
                break
            finally:
                release(setting.device)


if __name__ == "__main__":
    main(parse("large"))
