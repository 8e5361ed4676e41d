"""What to expect of a proposed run: warnings where time, images or classes do not suffice."""

from __future__ import annotations

from collections.abc import Iterator

from ...trainers.data.report import listed, shown
from ..inspection.facts import Inspection
from .machine import Machine
from .schedule import Schedule

TEXTURES = 25_000
"""Images of training of 32 pixels from which generated images had the colours and textures of their class, and
were better than noise by KID, on the small U-Net for CPUs (docs/evidence.md)."""
SIDE = 32
PUBLISHED = 200_000_000
"""Images of training of EDM's published models of 64 pixels (Karras et al. 2022, table 7)."""
LEARNABLE = 10
"""Images of a class below which its images are repeated rather than learned."""


def textures_from(size: int) -> int:
    """Return the images of training from which to expect more than noise and blotches.

    Measured at 32 pixels; above, it is taken to grow as the side: at 64 pixels 16,128 images gave blotches.
    """
    return TEXTURES * max(size, SIDE) // SIDE


def expect(
    inspection: Inspection,
    schedule: Schedule,
    size: int,
    machine: Machine,
    minutes: float,
    seen: int,
) -> Iterator[str]:
    """Yield what not to expect of a run, one line each.

    Args:
        size: side of the images.
        minutes: the budget.
        seen: images that are trained on.
    """
    times, need = schedule.times, textures_from(size)
    if times is not None:
        if times.total > 60 * minutes * 1.05:
            yield (
                f"{minutes:g} minutes are too few for this machine: the shortest run takes "
                f"{times}; give more --minutes, or a smaller --size"
            )
        each = times.training / schedule.images / 3600  # hours of an image
        if schedule.images < need:
            yield (
                f"{schedule.images:,} images of training are too few at {size} px: expect noise and blotches; "
                f"colours and textures from about {need:,} ({_hours(need * each)} here): "
                "give more --minutes, or a smaller --size"
            )
        elif schedule.images < PUBLISHED / 100 and size >= SIDE:
            yield (
                "expect the colours, textures and rough shapes of each class, no photographs: "
                f"models that do so saw {PUBLISHED:,} images, with larger networks; this one would see "
                f"them in {_hours(PUBLISHED * each)} here"
            )
    small = [c for c in inspection.classes if c.remaining < LEARNABLE]
    if small:
        names = listed([f"{shown(c.name)} ({c.remaining})" for c in small])
        yield f"classes too small to learn more than their own images: {names}; look at their near copies"
    if inspection.sizes is not None and inspection.sizes.short_sides[2] < size:
        yield (
            f"half of the images are smaller than {size} px and are enlarged: generated ones will be as blurred"
        )
    if machine.cluster is None and machine.gpus == 0 and seen > 100_000:
        yield f"{seen:,} images are more than a CPU can learn from in this time: give --on a cluster with GPUs"


def _hours(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:,.0f} days"
    return f"{hours:.0f} hours" if hours >= 2 else f"{60 * hours:.0f} minutes"
