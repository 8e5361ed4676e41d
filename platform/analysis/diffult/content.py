"""What the page of a result of `whipray diffult` says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ...evaluation.extractors.base import Value

StepState = Literal["reused", "made", "partly reused"]


@dataclass(frozen=True)
class Step:
    """One step of the pipeline."""

    name: str
    """`diffusion model`, `f_0`, `generated images`, `scores`, `classifiers`."""
    about: str
    """What it made, in a line: `39,153 images, ddim 50 steps, omega 1.5`."""
    state: StepState
    seconds: float | None = None
    """Wall time of this call; None where nothing was made."""


@dataclass(frozen=True)
class Group:
    """All classes or a group of them."""

    name: str
    """overall, many, medium or few."""
    classes: int
    train_images: int
    added_images: int
    """Images that the arm with filtered (or all) generated images adds."""
    test_images: int


@dataclass(frozen=True)
class Figure:
    """A mean over the seeds, with its interval if it has one."""

    value: float
    low: float | None
    high: float | None
    by_seed: Sequence[float]
    """The value of each seed, in order; of a difference the paired differences."""


@dataclass(frozen=True)
class ArmResult:
    """One arm: how the training images were added to, and what the classifiers reached."""

    name: str
    """`real`, `repeated`, `augmented`, `unfiltered`, `random`, `filtered` or `generated`."""
    added_images: int
    accuracy: Mapping[str, Figure]
    """By group (`overall`, `many`, ...), in [0, 1]."""


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of one arm less that of another, paired by seed."""

    arm: str
    """`filtered` or `generated`."""
    less: str
    """`repeated`, `random`, ..."""
    accuracy: Mapping[str, Figure]
    """By group, in [-1, 1]; without low and high for a single seed."""
    p_holm: Mapping[str, float] = field(default_factory=dict)
    """By group, p values adjusted for the number of arms that are compared; empty where there are none."""


@dataclass(frozen=True)
class Published:
    """A row of a paper's table."""

    label: str
    """`DiffuLT, CIFAR-100-LT r = 100`."""
    where: str
    """`Shao et al. 2024, main results`."""
    accuracy: Mapping[str, float]
    """By group, in [0, 1]; those that the paper states."""


@dataclass(frozen=True)
class ProtocolDifference:
    """Something that was done otherwise than in the paper."""

    what: str
    published: str
    """`not stated` where the paper does not say."""
    ours: str


@dataclass(frozen=True)
class DiffultPage:
    """Content of the page."""

    name: str
    """Of the run or recipe."""
    steps: Sequence[Step]
    groups: Sequence[Group]
    """Overall first, then many, medium and few as far as they have classes."""
    arms: Sequence[ArmResult]
    """In the order of the table; `real` first."""
    differences: Sequence[PairedDifference]
    """The headline first."""
    seeds: Sequence[int]
    confidence: float
    interval: str
    """What the arms' intervals are, in words: `Student's, over seeds`."""
    network: str
    """Of the classifiers: `resnet32`."""
    published: Sequence[Published] = ()
    protocol: Sequence[ProtocolDifference] = ()
    warnings: Sequence[str] = ()
    """What to know besides what the page sees itself: few seeds, few test images, within noise."""
    settings: Mapping[str, Value] = field(default_factory=dict)
    """What decides the result, by name: N_t, filter, generated weight, loss, sampling, hashes, ..."""
