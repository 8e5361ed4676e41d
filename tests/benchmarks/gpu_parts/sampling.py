"""Sampling: images/s of guided DDIM with 50 steps at the papers' network."""

from __future__ import annotations

import time

import torch
from support.devices import liven
from torch import Tensor

from whipray.trainers.compilation import compile_network
from whipray.trainers.guidance import ClassifierFree, Denoiser
from whipray.trainers.networks import UNet, UNetConfig
from whipray.trainers.processes import VPConfig
from whipray.trainers.samplers import DDIMSampler
from whipray.trainers.sampling import SamplingConfig, sample

from . import flops
from .ceilings import fp32_products, product_flops
from .setting import Setting, parse
from .timing import peak_memory, synchronize

SIDE, CLASSES, OMEGA = 32, 10, 1.5
ROUNDS = 3
COMPILING_S = 40.0


def images_per_second(setting: Setting, network: UNet, *, bf16: bool, batch: int) -> float:
    """The median over some rounds of one batch each, after a short one that warms up."""
    device = setting.device

    def model(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return network(x_t, t, labels).float()

    denoiser = Denoiser(model, VPConfig().build(device))
    labels = torch.arange(batch) % CLASSES

    def generate(steps: int, seed: int) -> float:
        config = SamplingConfig(
            sampler=DDIMSampler(steps=steps),
            guidance=ClassifierFree(omega=OMEGA),
            batch_size=batch,
        )
        synchronize(device)
        begin = time.perf_counter()
        counts = [1] * CLASSES
        shape = (3, SIDE, SIDE)
        sample(denoiser, labels, shape, config, class_counts=counts, seed=seed, device=device)
        return time.perf_counter() - begin  # the images are on the CPU by now

    steps = 4 if setting.toy else 50
    generate(3, 0)
    seconds = sorted(generate(steps, seed) for seed in range(1, 1 + ROUNDS))
    return batch / seconds[ROUNDS // 2]


def main(setting: Setting) -> None:
    config = UNetConfig.model_validate({**setting.model, "dropout": 0.0})
    network = UNet(config, (3, SIDE, SIDE), CLASSES).eval()
    liven(network)
    network.to(setting.device)
    batch = 8 if setting.toy else 256
    ceiling = product_flops(setting, torch.bfloat16)
    steps = 4 if setting.toy else 50
    work = flops.of_prediction(config, SIDE) * 2 * steps  # two halves of guidance

    def measure(what: str, *, bf16: bool, tf32: bool) -> None:
        with fp32_products(tf32):
            speed = images_per_second(setting, network, bf16=bf16, batch=batch)
        mfu = 100 * speed * work / ceiling
        numbers = {"images/s": speed, "% MFU": mfu, **peak_memory(setting.device)}
        setting.say(f"DDIM-{steps}, omega {OMEGA:g}, {what}, {batch}", numbers)

    measure("bf16", bf16=True, tf32=True)
    measure("fp32 in TF32", bf16=False, tf32=True)
    measure("fp32", bf16=False, tf32=False)
    if setting.toy or setting.left() > COMPILING_S:
        compile_network(network, "regional")
        measure("bf16, compiled", bf16=True, tf32=True)


if __name__ == "__main__":
    main(parse("sampling"))
