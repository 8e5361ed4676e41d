"""What a datasheet says of a balanced data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ....trainers.sampling import SamplingConfig
from ...config.balancing import FilterConfig
from ...evaluation.arrays import Pixels
from ...evaluation.extractors.base import Value
from ...evaluation.pages.content import CopyPair
from .manifest import Form, GeneratedRows


@dataclass(frozen=True)
class RealClass:
    """A class of the training images."""

    name: str
    group: str
    """many, medium or few."""
    train_count: int
    """Real training images."""
    borrowed: bool = False
    """Whether its test images are training images too, since it has too few to hold some out."""


@dataclass(frozen=True)
class Rejected:
    """A rejected image, and why."""

    image: Pixels  # (C, H, W)
    reason: str
    """As in `GeneratedRows.reasons`."""


@dataclass(frozen=True)
class ClassExamples:
    """Images of one class."""

    position: int
    """In `Datasheet.classes`."""
    real: Pixels  # (n, C, H, W), n may be 0
    kept: Pixels  # (n, C, H, W), n may be 0
    rejected: Sequence[Rejected] = ()


@dataclass(frozen=True)
class NearCopy:
    """A near copy beside its training image."""

    pair: CopyPair
    kept: bool


@dataclass(frozen=True)
class Datasheet:
    """Content of the page."""

    name: str
    """Of the data set: its folder's name, for instance."""
    source: str
    """Where the real images come from, in words: `cifar100-lt`, `the folder /data/birds`."""
    model: str
    """Model and version, run or checkpoint, as it was asked for."""
    weights_hash: str
    sampling: SamplingConfig
    seed: int
    fill_to: int
    """N_t."""
    filter: FilterConfig
    image_shape: tuple[int, int, int]
    """(C, H, W)."""
    classes: Sequence[RealClass]
    """By class id."""
    generated: GeneratedRows
    test_images: int
    """Real images of the split `test`, which are part of the data set as they are; 0 where there are none."""
    path: str
    """Absolute path of the data set, or its URI; empty where it is not written."""
    form: Form
    examples: Sequence[ClassExamples] = ()
    """From head to tail; the page shows all that are given: `examples.choose_examples` has a bounded choice."""
    near_copies: Sequence[NearCopy] = ()
    """The lowest ratio first; the page shows all that are given: at most `examples.shown(side).pairs` is enough."""
    warnings: Sequence[str] = ()
    """What to know besides what the page computes from the images."""
    provenance: Mapping[str, Value] = field(default_factory=dict)
    """Further facts: images seen, version of whipray, f_0 and its accuracy, ..."""
