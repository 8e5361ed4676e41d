"""Images of a few classes while a training goes on: from fixed noise, by the averaged weights.

They take nothing from the training: neither its random numbers nor its weights change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .data import PackedImages
from .data.batches import to_uint8
from .engine import Engine
from .guidance import Autoguidance, ClassifierFree, Denoiser
from .processes import Process, ProcessConfig
from .randomness import derive_seed
from .samplers import DDIMSampler
from .sampling import SamplingConfig, sample
from .trainer_config import TrainerConfig

CLASSES = 10
"""The rarest ones are shown."""
EACH = 4
"""Images of a class at most."""
CALLS = 10
"""Of the network for an image at most; in so many, a sampler's images are recognised."""
MOMENTS = 8
"""In a training, where `training.preview_every_images` is not given."""
MOST_COST = 0.015
"""Of the training's passes through the network, then."""
TRAINING_PASSES = 3
"""Of an image that is trained on: forward, and twice as much backward."""


@dataclass(frozen=True)
class Preview:
    """Images of one moment of a training."""

    images_seen: int
    total_images: int
    class_names: tuple[str, ...]
    """The rarest first."""
    train_counts: tuple[int, ...]
    """Training images of each of these classes."""
    images: NDArray[np.uint8]
    """(classes, images of each, C, H, W)."""


@dataclass(frozen=True)
class PreviewPlan:
    """How often there are previews, and of what."""

    every_images: int
    """0: never."""
    each: int
    """Images of a class."""
    sampling: SamplingConfig


class Previews:
    """The previews of one training.

    Args:
        config: of the training.
        train: its images.
        process: its noise process, with everything in it that is measured.
    """

    def __init__(self, config: TrainerConfig, train: PackedImages, process: ProcessConfig) -> None:
        counts = train.class_counts
        self.classes = np.argsort(counts, kind="stable")[:CLASSES]
        self.train, self.counts = train, counts.tolist()
        self.seed = derive_seed(config.seed, "preview")
        self.plan = plan_previews(config, self.counts, process)
        self.note = ""
        """Why there are none, if they were asked for."""
        if self.plan.every_images and config.engine.zero_stage == 3:
            self.plan = replace(self.plan, every_images=0)
            self.note = "no previews: with engine.zero_stage 3 no worker has the whole network"

    def is_due(self, images_seen: int, batch: int, total: int) -> bool:
        """Return whether the last batch passed a multiple of the interval, or ended the training."""
        every = self.plan.every_images
        if every == 0:
            return False
        return images_seen >= total or images_seen // every > (images_seen - batch) // every

    def show(
        self,
        engine: Engine,
        process: Process,
        images_seen: int,
        total: int,
        on_preview: Callable[[Preview], None],
    ) -> None:
        """Generate the images on worker 0; every worker calls it."""
        with engine.averaged() as network:
            if engine.rank == 0:
                images = self._generate(network, engine, process)
                names = [self.train.class_names[c] for c in self.classes]
                of = tuple(self.counts[c] for c in self.classes)
                on_preview(Preview(images_seen, total, tuple(names), of, images))

    def _generate(self, network: nn.Module, engine: Engine, process: Process) -> NDArray[np.uint8]:
        each, shape = self.plan.each, self.train.image_shape
        precision = torch.autocast(
            engine.device.type, torch.bfloat16, enabled=engine.config.precision == "bf16"
        )
        with precision:
            images = sample(
                Denoiser(_Eager(network), process),
                torch.from_numpy(self.classes).repeat_interleave(each),
                shape,
                self.plan.sampling,
                class_counts=self.counts,
                seed=self.seed,
                device=engine.device,
            )
        pixels: NDArray[np.uint8] = to_uint8(images).numpy()
        return pixels.reshape(len(self.classes), each, *shape)


class _Eager:
    """A network without its compiled form, which would be compiled anew for so few images."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.guidance = getattr(network, "guidance", None)

    def __call__(self, *inputs: Any, **extra: Any) -> Tensor:
        output: Tensor = self.network.forward(*inputs, **extra)
        return output


def has_previews(config: TrainerConfig, class_counts: list[int]) -> bool:
    """Return whether a training shows previews.

    Args:
        config: of the training.
        class_counts: training images of each class.
    """
    plan = plan_previews(config, class_counts, config.process)
    return plan.every_images > 0 and config.engine.zero_stage < 3


def plan_previews(
    config: TrainerConfig, class_counts: list[int], process: ProcessConfig
) -> PreviewPlan:
    """Return as many previews as were asked for; else as many and as large ones as cost little.

    Args:
        config: of the training.
        class_counts: training images of each class.
        process: with everything in it that is measured.
    """
    sampling = few_calls(config.sampling, process)
    training = config.training
    if training.preview_every_images is not None:
        return PreviewPlan(training.preview_every_images, EACH, sampling)
    guided = bool(sampling.guidance.strengths(class_counts).any())
    passes = sampling.sampler.calls(process) * (2 if guided else 1)
    of_one_each = min(CLASSES, len(class_counts)) * passes
    affordable = int(MOST_COST * TRAINING_PASSES * training.images / of_one_each)
    if affordable == 0:
        return PreviewPlan(0, 1, sampling)
    each = min(EACH, max(1, affordable // MOMENTS))
    moments = min(MOMENTS, affordable)
    return PreviewPlan(-(-training.images // moments), each, sampling)


def few_calls(sampling: SamplingConfig, process: ProcessConfig) -> SamplingConfig:
    """Return the sampling with the same sampler in `CALLS` calls at most, and no other model as a guide."""
    sampler = sampling.sampler
    if not hasattr(sampler, "steps"):  # ddpm goes through all steps; ddim is the same without noise
        sampler = DDIMSampler(steps=CALLS)
    calls = sampler.calls(process)
    if calls > CALLS:
        steps = sampler.steps * CALLS // calls
        sampler = sampler.model_copy(update={"steps": max(1, steps)})
    guidance = sampling.guidance
    if isinstance(guidance, Autoguidance):
        guidance = ClassifierFree()
    return sampling.model_copy(update={"sampler": sampler, "guidance": guidance})
