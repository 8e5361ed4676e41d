"""Training throughput on a GPU at the CIFAR size: images a second and MFU. No GPU, no results."""

from __future__ import annotations

import time
from itertools import product
from typing import Any

import torch
from measure import Result, hand_over
from torch.utils.flop_counter import FlopCounterMode
from workload import build, step

from whipray.trainers.backbones import UNet
from whipray.trainers.backbones.unet import UNetConfig
from whipray.trainers.loop import Training

ROUNDS = 5
STEPS = 20  # a round
CHANNELS = 128
BATCH = 128

# Dense peak in FLOP/s from the makers' data sheets: (bf16, TF32, which fp32 runs in here).
PEAKS = {
    "H200": (989e12, 494e12),
    "H100": (989e12, 494e12),
    "A100": (312e12, 156e12),
    "L4": (121e12, 60e12),
}
# Objectives, and the passes of the network that each image needs; CALL's second one shares the
# down path, 27 % of it.
OBJECTIVES: dict[str, tuple[dict[str, Any], float]] = {
    "DDPM": ({"name": "ddpm"}, 1),
    "CBDM": ({"name": "cbdm"}, 2),
    "OC": ({"name": "oc"}, 1),
    "CALL over DDPM": ({"name": "call", "base": {"name": "ddpm", "label_drop": 0.0}}, 1.73),
}


def flop_of_forward() -> int:
    """For one image, counted operator by operator; nothing is computed."""
    with torch.device("meta"):
        network = UNet(UNetConfig(base_channels=CHANNELS), (3, 32, 32), 10)
        one = torch.zeros(1, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, 32, 32), one, one)
    return counter.get_total_flops()


def images_per_second(training: Training) -> list[float]:
    """By round, after one round to compile and choose convolutions."""
    speeds = []
    for number in range(ROUNDS + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for i in range(STEPS):
            step(training, number * STEPS + i)
        torch.cuda.synchronize()
        speeds.append(STEPS * BATCH / (time.perf_counter() - start))
    return speeds[1:]


def main() -> None:
    if not torch.cuda.is_available():
        hand_over([])
        return
    device = torch.device("cuda", 0)
    gpu = torch.cuda.get_device_name(device)
    peaks = next((peaks for known, peaks in PEAKS.items() if known in gpu), None)
    flop = 3 * flop_of_forward()  # a backward is two forwards
    results = []
    for name, precision, compiled in product(OBJECTIVES, ("fp32", "bf16"), (False, True)):
        objective, passes = OBJECTIVES[name]
        torch.compiler.reset()
        training = build(
            objective,
            {"precision": precision, "compile": compiled},
            channels=CHANNELS,
            batch=BATCH,
            device=device,
        )
        speeds = images_per_second(training)
        training.engine.close()
        how = f"{gpu}, {name}, {precision}, {'compiled' if compiled else 'eager'}"
        results.append(Result(how, speeds, "images/s"))
        if peaks:
            peak = peaks[0] if precision == "bf16" else peaks[1]
            used = [100 * speed * flop * passes / peak for speed in speeds]
            results.append(Result(how, used, "% MFU"))
    hand_over(results)


if __name__ == "__main__":
    main()
