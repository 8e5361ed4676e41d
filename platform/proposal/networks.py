"""Networks that a proposal chooses from, largest first, by machine and image size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .machine import Machine


@dataclass(frozen=True)
class Choice:
    """A network with the process and the settings of training that belong to it.

    Args:
        values: `model`, `process`, and of `optimizer` the learning rate.
        batch: images of a step, over all workers.
        why: of the network, for a comment.
        least_images: images of training from which it is worth its time.
    """

    values: dict[str, Any]
    batch: int
    why: str
    least_images: int = 0


def choices(machine: Machine, size: int) -> list[Choice]:
    """Return the networks to try, the last one for any budget.

    Args:
        size: side of the images, a multiple of 4.
    """
    if machine.gpus:
        return [_ddpmpp(machine, size, width, least) for width, least in GPU_WIDTHS]
    return [_small_unet(size)]


GPU_WIDTHS = ((128, 20_000_000), (64, 0))
"""Base channels of DDPM++ and the images of training from which they are proposed: a tenth of the 200 million
that EDM's models of 64 px saw."""


def levels(size: int, lowest: int) -> int:
    """Return how often a size can be halved down to `lowest` pixels or more, and one."""
    count = 1
    while size % 2 == 0 and size // 2 >= lowest and count < 5:
        size, count = size // 2, count + 1
    return count


def _small_unet(size: int) -> Choice:
    count = levels(size, 8)
    mult = [1, 2, 4, 4, 4][:count]
    return Choice(
        {
            "model": {
                "name": "unet",
                "base_channels": 16,
                "channel_mult": mult,
                "blocks_per_level": 1,
                "attention_resolutions": [size >> (count - 1)],
                "norm_groups": 8,
                "dropout": 0.0,
            },
            "process": {"name": "edm", "sigma_data": None},
            "optimizer": {"lr": 1.0e-3},
        },
        16,
        "small enough for a CPU, attention where it is cheap",
    )


def _ddpmpp(machine: Machine, size: int, width: int, least: int) -> Choice:
    batch = 256 if width > 64 else 128
    batch = max(machine.gpus, batch - batch % machine.gpus)
    count = levels(size, 8)
    sides = [size >> level for level in range(count)]
    return Choice(
        {
            "model": {
                "name": "ddpmpp",
                "base_channels": width,
                "channel_mult": [1, 2, 2, 2, 2][:count],
                "attention_resolutions": [s for s in sides if s <= 16] or sides[-1:],
                "dropout": 0.1,
            },
            "process": {"name": "edm", "sigma_data": None},
            "optimizer": {"lr": 2.0e-4 if width > 64 else 5.0e-4},
        },
        batch,
        "EDM's network" if width == 128 else "EDM's network at half its width",
        least,
    )
