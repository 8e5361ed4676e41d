"""What all parts of the GPU benchmark are given: the device, the sizes, the images, the time."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from images import some_images
from workload import random_images

from whipray.trainers.data import Splits
from whipray.trainers.devices import choose_device

from .rows import Row, say

SOME = 2000
"""Images that most parts train on."""
TOY_MODEL = {
    "base_channels": 8,
    "channel_mult": [1, 2],
    "blocks_per_level": 1,
    "norm_groups": 4,
}


@dataclass(frozen=True)
class Setting:
    """Sizes of a run.

    Args:
        toy: tiny sizes, on any device, which prove that the script runs and measure nothing.
        so_far: what the driver has written of the parts before, if it did.
        images: a file of real images as `pack_images.py` writes it, None for random ones.
        ends: when this process has to be done, s of `time.monotonic`.
    """

    part: str
    device: torch.device
    toy: bool
    images: Path | None
    so_far: Path | None
    ends: float

    @property
    def gpu(self) -> bool:
        """Whether the device is one."""
        return self.device.type == "cuda"

    @property
    def model(self) -> dict[str, Any]:
        """The papers' network for 32x32 images, or a tiny one."""
        return TOY_MODEL if self.toy else {}

    @property
    def batches(self) -> tuple[int, int, int]:
        """The main one first."""
        return (16, 8, 24) if self.toy else (128, 64, 512)

    @property
    def rounds(self) -> int:
        """Rounds of a measurement, of which the median is taken."""
        return 2 if self.toy else 5

    @property
    def round_s(self) -> float:
        """Least duration of a round."""
        return 0.0 if self.toy else 0.3

    def left(self) -> float:
        """Seconds until the process has to be done."""
        return self.ends - time.monotonic()

    def say(
        self,
        what: str,
        numbers: dict[str, float] | None = None,
        note: str = "",
        met: bool | None = None,
    ) -> None:
        """Print a row of this part."""
        say(Row(self.part, what, numbers or {}, note, met))

    def rows_before(self, part: str) -> dict[str, dict[str, float]]:
        """Return the values that an earlier part reported, by name."""
        if self.so_far is None or not self.so_far.exists():
            return {}
        rows = json.loads(self.so_far.read_text())["rows"]
        return {row["what"]: row["numbers"] for row in rows if row["part"] == part}

    def splits(self) -> Splits:
        """Real CIFAR images where they were brought along, or random ones."""
        images = random_images(SOME) if self.images is None else some_images(self.images, SOME)
        return Splits(images, images)


def compile_without_kernels() -> None:
    """Let a toy run trace networks as the compiler does, but not wait for a C++ compiler."""
    whole = torch.compile

    def traced(function: Callable[..., Any], **options: Any) -> Any:  # noqa: ARG001
        return whole(function, backend="aot_eager")

    torch.compile = traced  # type: ignore[assignment]


def parse(part: str) -> Setting:
    """The setting that the driver asks for on the command line."""
    parser = argparse.ArgumentParser(description=f"The part {part} of the GPU benchmark.")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--so-far", type=Path)
    parser.add_argument("--seconds", type=float, default=600.0, help="until it has to be done")
    options = parser.parse_args()
    if options.toy:
        torch.set_num_threads(1)
        compile_without_kernels()
    ends = time.monotonic() + options.seconds
    return Setting(part, choose_device(), options.toy, options.images, options.so_far, ends)
