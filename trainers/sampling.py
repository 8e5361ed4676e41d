"""Generate images: one sampler, one guidance, and noise that belongs to each image.

Every random number belongs to an image, the n-th of its class (`image_noise`), so image n of a class
is the same whatever is generated with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from .config import Config
from .data.groups import GroupsConfig
from .guidance import AnyGuidance, ClassifierFree, Denoiser, guided
from .processes import Level, ProcessConfig
from .randomness import BatchRandom, derive_seed
from .samplers import AnySampler, DDIMSampler, Noise


class SamplingConfig(Config):
    """How images are generated from a trained model."""

    sampler: AnySampler = DDIMSampler()
    guidance: AnyGuidance = ClassifierFree()
    clip_x0: bool = True
    """Clip the predicted x_0 to [-1, 1] at each step, as Ho et al.; CBDM's released code does not
    (its clipping comes too late to act)."""
    weights: Literal["merged", "general"] = "merged"
    """Of a CALL model: merged is all of it, general is theta_g alone, without the reserved capacity
    (CALL table 4)."""
    ema_width: float | None = Field(None, gt=0, lt=0.28)
    """Width of the weights' average, as a share of the training (Karras et al. 2024, EDM2, section 3), formed
    after the fact from `optimizer.ema_profiles`. None: the average that training keeps by its half-life."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the network's convolutions and products in bfloat16: faster on a GPU, other images of the same
    distribution as far as KID shows. Everything outside of the network stays in fp32."""
    compile: bool = False
    """torch.compile of the network: slow to start, faster on a GPU; changes the images by rounding alone."""
    batch_size: int = Field(256, ge=1)
    """Images generated at once; does not change the images."""

    def check(self, process: ProcessConfig) -> None:
        """Check that images of a process can be generated so.

        Raises:
            ValueError: the sampler or the guidance does not fit it.
        """
        self.sampler.check(process)
        self.guidance.check(process)

    def effective(
        self, process: ProcessConfig, groups: GroupsConfig | None = None
    ) -> SamplingConfig:
        """Return a config of the same images, the same for all configs of these images.

        Args:
            groups: of classes, where guidance names none.
        """
        update = {
            "sampler": self.sampler.effective(process),
            "guidance": self.guidance.effective(groups),
        }
        return self.model_copy(update=update)

    def without_guide(self) -> SamplingConfig:
        """Return the same without guidance: for a model that is loaded without its guide."""
        return self.model_copy(update={"guidance": ClassifierFree()})

    def identity(self) -> dict[str, Any]:
        """Return what decides the images, as JSON types."""
        own = self.model_dump(mode="json", exclude={"batch_size", "compile"})
        if self.precision == "fp32":  # so that images of versions without it keep their names
            del own["precision"]
        return {**own, "guidance": self.guidance.identity()}

    def facts(self) -> dict[str, Any]:
        """Return what decides the images, by name: `sampler`, `steps`, ..., `guidance`, `omega`, ..."""
        sampler, guidance = self.sampler.model_dump(mode="json"), self.guidance.facts()
        return {
            "sampler": sampler.pop("name"),
            **sampler,
            "guidance": guidance.pop("name"),
            **guidance,
            "clip_x0": self.clip_x0,
            "weights": self.weights,
            "ema_width": self.ema_width,
            "sampling_precision": self.precision,
        }

    @property
    def label(self) -> str:
        """Sampler, guidance, average and precision in a few words."""
        precision = "" if self.precision == "fp32" else self.precision
        parts = (self.sampler.label, precision, self.average, self.guidance.label)
        return ", ".join(filter(None, parts))

    @property
    def average(self) -> str:
        """The average of the weights in a few words, nothing for that of the half-life."""
        return "" if self.ema_width is None else f"EMA width {self.ema_width:.3g}"


def occurrences(labels: Tensor) -> Tensor:
    """Return how many rows before each one have its label, (N,) int64: the index within the class."""
    order = labels.argsort(stable=True)
    of_class = labels[order]
    first = torch.searchsorted(of_class, of_class)  # where each row's class begins
    indices = torch.empty_like(labels)
    indices[order] = torch.arange(len(labels), device=labels.device) - first
    return indices


def image_noise(
    seed: int, labels: Tensor, indices: Tensor, shape: Sequence[int], device: torch.device
) -> Noise:
    """Return noise in which a row is a function of (seed, its label, its index, step) alone.

    Args:
        labels: (B,) int64.
        indices: (B,) int64, at least 0: which image of its class each row is.
        shape: (C, H, W).
    """
    order = torch.from_numpy(np.lexsort((indices.cpu().numpy(), labels.cpu().numpy())))
    row, following = order[:-1], order[1:]
    same_class = labels[row] == labels[following]
    follows = same_class & (indices[row] + 1 == indices[following])
    breaks = (~follows).nonzero().flatten().add(1).tolist()
    runs = order.tensor_split(breaks)  # rows of one class with consecutive indices
    begins = [(int(labels[run[0]]), int(indices[run[0]])) for run in runs]

    def noise(step: int) -> Tensor:
        sampled = [
            BatchRandom(derive_seed(seed, "sampling", label), step, first, len(run), device).normal(
                "x", shape
            )
            for run, (label, first) in zip(runs, begins, strict=True)
        ]
        rows = torch.empty((len(labels), *shape), device=device)
        rows[order.to(device)] = torch.cat(sampled)
        return rows

    return noise


@torch.inference_mode()
def sample(
    own: Denoiser,
    labels: Tensor,
    shape: tuple[int, int, int],
    config: SamplingConfig,
    *,
    class_counts: Sequence[int],
    seed: int,
    guide: Denoiser | None = None,
    indices: Tensor | None = None,
    device: torch.device | str = "cpu",
    on_progress: Callable[[float], None] = lambda _done: None,
) -> Tensor:
    """Generate one image for each label.

    Args:
        own: with the network in evaluation mode, so that no dropout is active.
        labels: (N,) int64 in [0, num_classes), or `NULL_LABEL`.
        shape: (C, H, W).
        class_counts: training images of each class.
        seed: an image is a function of (seed, its label, its index) alone, whatever else is
            generated with it, in whatever order and in however many batches or processes.
        guide: the reference of guidance by another model.
        indices: (N,) int64, which image of its class each row is; counted from 0 where not given.
        on_progress: called at each call of the network, with the number of images generated so far; of a
            batch in work its images times the share of the calls that are done.

    Returns:
        (N, C, H, W) float32 in [-1, 1], on the CPU.
    """
    device = torch.device(device)
    own = replace(own, precision=config.precision)
    guide = guide and replace(guide, precision=config.precision)
    indices = occurrences(labels) if indices is None else indices
    images = []
    calls = config.sampler.calls(own.process.config)  # type: ignore[attr-defined]
    for first in range(0, len(labels), config.batch_size):
        rows = slice(first, first + config.batch_size)
        batch_labels = labels[rows].to(device)
        noise = image_noise(seed, labels[rows], indices[rows], shape, device)
        predict = guided(own, guide, config.guidance, batch_labels, class_counts)
        on_call = _of_batch(on_progress, first, len(batch_labels), calls)

        def denoise(
            x_t: Tensor,
            level: Level,
            predict: Callable[[Tensor, Level], Tensor] = predict,
            on_call: Callable[[], None] = on_call,
        ) -> Tensor:
            x_0 = predict(x_t, level)
            on_call()
            return x_0.clamp(-1, 1) if config.clip_x0 else x_0

        x_0 = config.sampler(denoise, noise, own.process)
        images.append(x_0.clamp(-1, 1).cpu())
        on_progress(first + len(batch_labels))
    return torch.cat(images) if images else torch.empty((0, *shape))


def _of_batch(
    on_progress: Callable[[float], None], before: int, images: int, calls: int
) -> Callable[[], None]:
    """Return what counts a call of the network, and reports all but the last one.

    Args:
        before: images of earlier batches.
        images: of this batch.
        calls: that it takes.
    """
    count = itertools.count(1)

    def on_call() -> None:
        if (done := next(count)) < calls:
            on_progress(before + images * done / calls)

    return on_call
