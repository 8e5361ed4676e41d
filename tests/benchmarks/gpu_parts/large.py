"""Networks for 64 and 256 pixels: images/s, MFU and memory, also at ZeRO 1 and with recomputed blocks."""

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

NETWORKS: dict[str, tuple[int, tuple[int, ...], dict[str, Any]]] = {
    # EDM's for 64 pixels
    "DDPM++": (64, (64, 32), {"name": "ddpmpp", "channel_mult": [1, 2, 2, 2], "dropout": 0.05}),
    # the one of Ho et al. 2020 for 256 pixels
    "U-Net": (256, (16, 8, 4), {"channel_mult": [1, 1, 2, 2, 4, 4], "dropout": 0.0}),
    "large U-Net": (
        64,
        (64, 32, 16),
        {
            "base_channels": 192,
            "channel_mult": [1, 2, 4, 4],
            "blocks_per_level": 3,
            "attention_resolutions": [16, 8],
            "attention_heads": 4,
        },
    ),
}
"""Name -> pixels, batches of which the first that fits is measured, and the network."""
RECOMPUTED = {"activation_checkpointing": True}
WANTED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("DDPM++", {}),
    ("U-Net", {}),
    ("U-Net", RECOMPUTED),
    ("large U-Net", {}),
    ("DDPM++", {"compile": "regional"}),
    ("large U-Net", {"zero_stage": 1}),
    ("large U-Net", {"zero_stage": 1, "offload": "optimizer"}),
)
"""Networks and what else their engine is told, bf16 apart."""
LEAST_S = 15.0


def random_splits(side: int) -> Splits:
    """Random images of a size."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (256, 3, side, side), dtype=np.uint8)
    names = tuple(map(str, range(10)))
    images = PackedImages(pixels, np.arange(256, dtype=np.int64) % 10, names)
    return Splits(images, images)


def measure(
    setting: Setting, name: str, engine: dict[str, Any], batch: int, ceiling: float
) -> tuple[str, dict[str, float]]:
    """A network's size in words, and all that is said of it."""
    side, _, model = NETWORKS[name]
    if setting.toy:
        side, model = 16, {**TOY_MODEL, "attention_resolutions": [8]}
    config = config_of({"name": "ddpm"}, {"precision": "bf16", **engine}, model=model, batch=batch)
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
        training.close()
    speed = batch / found.seconds
    mfu = 100 * speed * flops.of_training(config, side) / ceiling
    numbers = {"images/s": speed, "% MFU": mfu, **memory, "s to the first step": first}
    return f"{parameters / 1e6:.0f} M parameters at {side}x{side}", numbers


def main(setting: Setting) -> None:
    ceiling = product_flops(setting, torch.bfloat16)
    for name, engine in WANTED[:3] if setting.toy else WANTED:
        how = f"{name}, {', '.join(f'{key} {value}' for key, value in engine.items()) or 'eager'}"
        if not setting.toy and setting.left() < LEAST_S:
            setting.say(how, {}, "not reached in the time given")
            continue
        batches = setting.batches[:1] if setting.toy else NETWORKS[name][1]
        for batch in batches:
            try:
                size, numbers = measure(setting, name, engine, batch, ceiling)
            except torch.cuda.OutOfMemoryError:
                setting.say(f"{how}, {batch}", {}, "does not fit")
            else:
                setting.say(f"{how}: {size}, {batch}, bf16", numbers)
                break
            finally:
                release(setting.device)


if __name__ == "__main__":
    main(parse("large"))
