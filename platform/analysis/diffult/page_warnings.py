"""What to know before believing a result of `whipray diffult`."""

from __future__ import annotations

from ....trainers.data.report import counted, listed
from .content import DiffultPage

ENOUGH_SEEDS = 5
FEW_TEST_IMAGES = 200
"""Test images of a group below which one of them is half a point of accuracy or more."""


def page_warnings(content: DiffultPage) -> tuple[str, ...]:
    """Return a line for everything that makes the result mean less than it seems to."""
    lines = [_seeds(content), _noise(content), _test_images(content), *content.warnings]
    return tuple(line for line in lines if line)


def _seeds(content: DiffultPage) -> str:
    n = len(content.seeds)
    if n == 1:
        return (
            "one seed: no difference has an interval, and none can be told from noise; give "
            f"--seeds {ENOUGH_SEEDS}"
        )
    if n < ENOUGH_SEEDS:
        return f"{n} seeds: intervals of so few are wide, and uncertain themselves"
    return ""


def _noise(content: DiffultPage) -> str:
    beyond = next((d for d in content.differences if d.less == "repeated"), None)
    if beyond is None:
        return ""
    noisy = [
        name
        for name, figure in beyond.accuracy.items()
        if figure.low is not None and figure.high is not None and figure.low <= 0 <= figure.high
    ]
    if not noisy:
        return ""
    return f"what generated images give beyond repetition is within noise: {listed(noisy)}"


def _test_images(content: DiffultPage) -> str:
    few = [g for g in content.groups if 0 < g.test_images < FEW_TEST_IMAGES]
    if not few:
        return ""
    groups = listed([f"{g.name} {counted(g.test_images, 'test images')}" for g in few])
    points = max(100 / g.test_images for g in few)
    return (
        f"{groups}: one image more or less is up to {points:.1f} points, which intervals over seeds do not "
        "cover"
    )
