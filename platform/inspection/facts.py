"""The result of an inspection of images, as JSON types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from ...trainers.errors import DataProblem, Problem, combine

Severity = Literal["info", "warning", "error"]
"""`info`: is done to the images in training. `warning`: makes results worse, or is probably not meant.
`error`: nothing can be trained before it is mended."""
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""In the order in which findings are shown."""
EXAMPLES = 3
"""Examples of a finding."""


@dataclass(frozen=True)
class ClassFacts:
    """One class; its id is its position.

    Args:
        name: of the class.
        count: images to train on, those that would be held out among them.
        held_out: images of `count` that would be held out for evaluation; 0 where a reference is given.
        remaining: images of `count` that the network would see.
        reference: images of a reference that is given.
    """

    name: str
    count: int
    held_out: int
    remaining: int
    reference: int = 0


@dataclass(frozen=True)
class Sizes:
    """Sizes of the images, (width, height) in pixels.

    Args:
        smallest: size of the image with the shortest shorter side.
        median: median of the widths and of the heights, each by itself.
        largest: size of the image with the longest shorter side.
        short_sides: the shorter side that 5, 25, 50, 75 and 95 % of the images do not exceed.
        not_square: share of images of other sizes than square, 0 to 1.
    """

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    short_sides: tuple[int, int, int, int, int]
    not_square: float


@dataclass(frozen=True)
class Finding:
    """Something about the images that is to be said, and what to do about it.

    Args:
        kind: a word for programs, such as `broken` or `near copies`.
        severity: see `Severity`.
        count: of the files, images or classes that it concerns.
        text: one line of what it is.
        fix: one line of what to do; empty where nothing is to be done.
        examples: up to `EXAMPLES` of what it concerns; up to ten of broken images.
    """

    kind: str
    severity: Severity
    count: int
    text: str
    fix: str = ""
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """What a source of images holds.

    Args:
        source: the `data:` section that reads it, as JSON types.
        classes: by class id.
        images: number of images of both splits.
        sizes: None where no image can be read.
        modes: number of images by kind of pixels (`RGB`, `grey`, `palette`, `CMYK`, ...).
        formats: number of images by format (`JPEG`, `PNG`, ...).
        findings: errors first, then warnings.
        looked_at: number of images that were decoded; of the others the header was read.
        seconds: time that it took.
    """

    source: dict[str, Any]
    classes: tuple[ClassFacts, ...]
    images: int
    sizes: Sizes | None
    modes: dict[str, int]
    formats: dict[str, int]
    findings: tuple[Finding, ...]
    looked_at: int
    seconds: float

    def find(self, kind: str) -> Finding | None:
        """Return the finding of a kind; None where there is none."""
        return next((finding for finding in self.findings if finding.kind == kind), None)

    def errors(self) -> tuple[Finding, ...]:
        """Return what has to be mended before anything can be trained on these images."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    def problem(self) -> Problem | None:
        """Return why nothing can be trained on these images; None where it can."""
        errors = [DataProblem(finding.text, finding.fix) for finding in self.errors()]
        return combine(errors) if errors else None

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        document: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return document


_ADAPTER = TypeAdapter(Inspection)
