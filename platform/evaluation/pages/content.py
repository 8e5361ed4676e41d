"""Content of a page besides a report's values: pictures, and points of a guidance search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from ....trainers.sampling import SamplingConfig
from ..arrays import Pixels
from ..bootstrap import Estimate
from ..report import ClassRow


@dataclass(frozen=True)
class WorstClass:
    """A class with a high KID, real beside generated; the page shows the first six of each."""

    row: ClassRow
    real: Pixels  # (n, C, H, W), C is 1 or 3
    generated: Pixels  # (m, C, H, W)


@dataclass(frozen=True)
class CopyPair:
    """A generated image and the training image that it is nearest to."""

    class_name: str
    """The class that was asked for."""
    nearest_class: str
    """The class of the training image."""
    ratio: float
    """Their distance over the usual one between training images of the latter's class."""
    how: str
    """How the training image is changed to fit best, in words; empty where it is not."""
    generated: Pixels  # (C, H, W)
    nearest: Pixels  # (C, H, W)


@dataclass(frozen=True)
class Pictures:
    """Pictures of an evaluation; the section of what is empty is left out of the page."""

    grid: Image.Image | None = None
    """Samples; embedded as it is, so with many classes a choice of them."""
    worst: Sequence[WorstClass] = ()
    """The worst class first."""
    copies: Sequence[CopyPair] = ()
    """The lowest ratio first; the page shows 24."""


@dataclass(frozen=True)
class PreviewStrip:
    """Images of one moment of a training."""

    png: bytes
    """A column for each class, its images below each other."""
    images_seen: int
    total_images: int
    class_names: tuple[str, ...]
    train_counts: tuple[int, ...]


@dataclass(frozen=True)
class TrainingRecord:
    """What a training left to look at; what is empty is left out of the page."""

    series: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    """(images seen, value) of each metric that it logged, in order."""
    preview: PreviewStrip | None = None
    """The last one."""
    previews: str = ""
    """Address of the page with all of them, relative to the report's."""


@dataclass(frozen=True)
class CurvePoint:
    """One sampling setting of a finished checkpoint, and its values."""

    sampling: SamplingConfig
    omega: float
    """Strength of its guidance, a mean over the classes."""
    values: Mapping[str, Estimate]
    """By metric and group: `fid/overall`, `kid/few`, ..."""
    chosen: bool = False
    """This is the setting that the search chose."""


@dataclass(frozen=True)
class BestPoint:
    """The best setting for a group of classes."""

    point: CurvePoint
    """As the noise has it by which it was chosen."""
    held_out: CurvePoint
    """The same setting as other noise has it; the same point where there was no choice."""
