"""Time of a training step and of one call of the network, measured on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...trainers.network import build_plain_network
from ...trainers.objectives import Batch
from ...trainers.optimizer import AdamWithEMA
from ...trainers.processes import EDMConfig, ProcessConfig
from ...trainers.randomness import BatchRandom
from ..config.experiment import Experiment

LEAST_STEPS, MOST_STEPS, LEAST_SECONDS = 8, 50, 2.0
"""Steps and seconds that are measured, after one step that is not: it allocates and compiles."""
FORWARD_IMAGES = 16
"""Images of the measured call of the network."""


@dataclass(frozen=True)
class Speed:
    """Measured times of one worker.

    Args:
        step: seconds of a training step of its rows: forward, backward, update.
        call: seconds in which the network predicts one image, in a batch.
    """

    step: float
    call: float


def measure(experiment: Experiment, num_classes: int, rows: int) -> Speed:
    """Train the experiment's network for a few steps on noise, and call it without gradients.

    A loop of its own, which is within 2 % of the time of `trainers.loop`; no file is read or written.

    Args:
        experiment: with its network, process, objective and engine; a GPU is used if it asks for one.
        num_classes: labels are in [0, num_classes).
        rows: images of a batch that one worker processes.
    """
    on_gpu = experiment.scaling.gpus_per_worker > 0
    device = torch.device("cuda" if on_gpu else "cpu")
    before = torch.get_num_threads()
    if not on_gpu:
        torch.set_num_threads(experiment.scaling.cpus_per_worker)
    try:
        return _measure(experiment, num_classes, rows, device)
    finally:
        torch.set_num_threads(before)


def _measure(experiment: Experiment, num_classes: int, rows: int, device: torch.device) -> Speed:
    shape = experiment.data.image_shape
    network = build_plain_network(experiment, shape, num_classes).to(device)
    process = _complete(experiment.process).build(device)
    objective = experiment.objective.build([1] * num_classes)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = AdamWithEMA(parameters, experiment.optimizer)
    images = torch.rand(rows, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    labels = (torch.arange(rows) % num_classes).to(device)

    def predict(x_t: Tensor, t: Tensor, labels: Tensor, **extra: Any) -> Tensor:
        x, when = process.network_input(x_t, t)
        if experiment.engine.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        in_bf16 = experiment.engine.precision == "bf16"
        with torch.autocast(device.type, torch.bfloat16, enabled=in_bf16):
            output: Tensor = network(x, when, labels, **extra)
        return output.float()

    def step(number: int) -> None:
        rng = BatchRandom(0, number, 0, rows, device)
        objective(predict, Batch(images, labels), process, rng, 0).total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    some = min(rows, FORWARD_IMAGES)

    def call(number: int) -> None:
        with torch.inference_mode():
            times = process.sample_times(BatchRandom(0, number, 0, some, device)).to(device)
            predict(images[:some], times, labels[:some])

    seconds = _shortest(step, device)
    network.eval()
    return Speed(seconds, _shortest(call, device) / some)


def _complete(config: ProcessConfig) -> ProcessConfig:
    """Return a process with a value for what is to be measured on images, which takes no time in a step."""
    is_open = isinstance(config, EDMConfig) and config.sigma_data is None
    return config.model_copy(update={"sigma_data": 0.5}) if is_open else config


def _shortest(work: Callable[[int], None], device: torch.device) -> float:
    """Return the shortest time of one piece of work, in seconds: what else runs only adds to it."""
    each: list[float] = []
    begun = time.perf_counter()
    for number in range(MOST_STEPS):
        start = time.perf_counter()
        work(number)
        if device.type == "cuda":
            torch.cuda.synchronize()
        each.append(time.perf_counter() - start)
        if number >= LEAST_STEPS and time.perf_counter() - begun > LEAST_SECONDS:
            break
    return min(each[1:])
