"""The same small trainings on a GPU and on the CPU: losses, checkpoints, images.

Random numbers are the same on both, up to rounding. Dropout is off, since its masks come from the device's own
generator. What is left to differ is arithmetic.

DeepSpeed serves one kind of device a process: the CPU's side runs in a process that sees no GPU,

    python -m support.devices '[["FUNCTION", {"argument": ...}], ...]'
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from support.folder_hooks import FolderHooks
from support.sampling import ddim
from torch import Tensor, nn

from whipray.trainers.checkpoint import verify
from whipray.trainers.checkpointing import ResumePoint
from whipray.trainers.data import Splits
from whipray.trainers.data.packed import PackedImages
from whipray.trainers.devices import choose_device, join_workers
from whipray.trainers.guidance import Denoiser
from whipray.trainers.loop import Training
from whipray.trainers.network import build_network
from whipray.trainers.networks import UNet
from whipray.trainers.processes import VPConfig
from whipray.trainers.sampling import sample
from whipray.trainers.trainer_config import TrainerConfig

OBJECTIVES = ("ddpm", "cbdm", "oc", "call", "focal", "tcfg")
STEPS, BATCH, SIDE = 3, 16, 16
COUNTS = (100, 50, 30, 15, 5)
SAMPLES = 4
TOLERANCES = {"fp32": 1e-3, "bf16": 2e-2}
"""Relative difference of a loss from the CPU's in fp32 that is rounding: those of a resumed run."""
IMAGE_TOLERANCE = 2e-3
"""Largest difference of a pixel in [-1, 1], fp32 without TF32."""


def config_of(objective: str, engine: dict[str, Any], images: int = BATCH) -> TrainerConfig:
    """A small training whose learning rate is the full one from the first step."""
    model = {"base_channels": 32, "channel_mult": [1, 2], "blocks_per_level": 1, "dropout": 0.0}
    return TrainerConfig.model_validate(
        {
            "data": {"source": "digits", "flip": True},  # its images are replaced
            "model": {
                "name": "unet",
                **model,
                "attention_resolutions": [8],
                "guidance_embedding": objective == "tcfg",
            },
            "objective": {"name": objective},
            "optimizer": {"warmup_images": 0, "ema_half_life_images": 4 * BATCH},
            "engine": {"tf32": False, **engine},
            "training": {"images": images, "batch_size": BATCH, "validation_images": 0},
        }
    )


def long_tailed() -> Splits:
    """Random images, of some classes more than of others."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(COUNTS)), COUNTS)
    pixels = generator.integers(0, 256, (len(labels), 3, SIDE, SIDE), dtype=np.uint8)
    images = PackedImages(pixels, labels, tuple(map(str, range(len(COUNTS)))))
    return Splits(images, images)


@torch.no_grad()
def liven(network: nn.Module) -> None:
    """Random weights in every layer: with the initial ones most predict nothing."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.dim() > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                inputs = 0.1 if isinstance(module, nn.Embedding) else parameter[0].numel()
                parameter.copy_(noise * (0.7 / inputs**0.5))


@contextmanager
def opened(
    config: TrainerConfig, device: torch.device, resume: ResumePoint | None = None
) -> Iterator[Training]:
    """A training, closed at the end."""
    join_workers(device)
    training = Training(config, long_tailed(), device, resume)
    try:
        yield training
    finally:
        training.close()


def step(training: Training, number: int) -> Tensor:
    """One step as the loop takes it, in all its pieces; the loss of the last piece."""
    plan, optimizer = training.config.training, training.config.optimizer
    after = (number + 1) * plan.batch_size
    for piece in range(training.rows // training.micro):
        loss = training._loss(number * plan.batch_size, piece)
        training.engine.backward(loss.total)
        decays = optimizer.decays_at(after, plan.batch_size)
        training.engine.step(optimizer.lr_at(after, plan.batch_size), decays)
    return loss.total.detach()


def losses(objective: str, engine: dict[str, Any]) -> list[float]:
    """Of the first steps of a training on this process's device."""
    torch.compiler.reset()

    def lively(*inputs: Any) -> UNet:
        network = build_network(*inputs)
        liven(network)
        return network

    with ExitStack() as stack:
        stack.enter_context(patch("whipray.trainers.loop.build_network", lively))
        training = stack.enter_context(opened(config_of(objective, engine), choose_device()))
        return [step(training, number).item() for number in range(STEPS)]


def all_losses() -> dict[str, list[float]]:
    """The reference: every objective in fp32, eager."""
    return {objective: losses(objective, {}) for objective in OBJECTIVES}


def apart(found: Sequence[float], expected: Sequence[float]) -> float:
    """Largest relative difference."""
    return max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))


# -- checkpoints -------------------------------------------------------------------------------------


def go_on(folder: str, steps: int, engine: dict[str, Any]) -> dict[str, float]:
    """Train CBDM from the newest checkpoint in a folder, or the beginning, up to so many steps.

    Returns:
        the next loss that the checkpoint recorded, and the one computed now; none at the beginning.
    """
    found: dict[str, float] = {}
    newest = max(Path(folder).iterdir(), default=None)
    resume = ResumePoint(newest, verify(newest)) if newest else None
    config = config_of("cbdm", engine, steps * BATCH)
    with opened(config, choose_device(), resume) as training:
        if resume:
            found = {"saved": resume.manifest.next_loss, "reproduced": training._next_loss()}
        training.run(FolderHooks(Path(folder)), config.model_dump(mode="json"))
    return found


# -- images ------------------------------------------------------------------------------------------


def sampled(precision: str = "fp32") -> list[float]:
    """All pixels of some guided images of a network whose layers all act."""
    device = choose_device()
    torch.manual_seed(0)
    config = config_of("ddpm", {})
    network = UNet(config.model, (3, SIDE, SIDE), len(COUNTS)).eval()
    liven(network)
    network.to(device)

    def model(*inputs: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            return network(*inputs).float()

    process = VPConfig(prediction="v").build(device)  # seldom clipped
    labels = torch.arange(SAMPLES) % len(COUNTS)
    how = ddim(10, 1.5)
    with fp32_throughout():
        shape = (3, SIDE, SIDE)
        images = sample(
            Denoiser(model, process), labels, shape, how, class_counts=COUNTS, seed=1, device=device
        )
    return images.flatten().tolist()


@contextmanager
def fp32_throughout() -> Iterator[None]:
    """Inside, a GPU computes fp32 products and convolutions without TF32."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


# -- waits -------------------------------------------------------------------------------------------


def waits_of(training: Training, warm: int = 3, steps: int = 3) -> list[str]:
    """Where a step waits for the device, after some steps to warm up; empty where it never does.

    PyTorch's own check sees copies and `.item()`, but no explicit `synchronize`: these are counted.
    """
    for number in range(warm):
        step(training, number)
    found: list[str] = []

    def note(*args: Any, **options: Any) -> None:  # noqa: ARG001
        found.append(_where(traceback.extract_stack()[:-2]))

    with ExitStack() as stack:
        for owner in (torch.cuda, torch.cuda.Stream, torch.cuda.Event):
            stack.enter_context(patch.object(owner, "synchronize", note))
        if training.device.type == "cuda":
            stack.callback(torch.cuda.set_sync_debug_mode, "default")
            torch.cuda.set_sync_debug_mode("error")
        try:
            for number in range(warm, warm + steps):
                step(training, number)
        except RuntimeError as error:
            found.append(f"{_where(traceback.extract_tb(error.__traceback__))}: {error}")
    return sorted(set(found))


def _where(stack: traceback.StackSummary) -> str:
    """The innermost line outside of PyTorch."""
    pytorch = str(Path(torch.__file__).parent)
    frames = [frame for frame in stack if not frame.filename.startswith(pytorch)]
    frame = (frames or stack)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno} {frame.line}"


# -- a process that sees no GPU ----------------------------------------------------------------------


def on_the_cpu(function: str, **arguments: Any) -> Any:
    """What one of these functions returns in a process that has only the CPU."""
    return several_on_the_cpu([(function, arguments)])[0]


def several_on_the_cpu(calls: list[tuple[str, dict[str, Any]]]) -> list[Any]:
    """What some of these functions return, one after another in one such process."""
    done = subprocess.run(
        [sys.executable, "-m", "support.devices", json.dumps(calls)],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


FUNCTIONS = {"all_losses": all_losses, "go_on": go_on, "sampled": sampled}


def main() -> None:
    torch.set_num_threads(min(8, len(os.sched_getaffinity(0))))
    calls = json.loads(sys.argv[1])
    print(json.dumps([FUNCTIONS[name](**arguments) for name, arguments in calls]), flush=True)


if __name__ == "__main__":
    main()
