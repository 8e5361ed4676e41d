"""What a call would do: each step, what of it exists, and the time to expect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ....trainers.errors import Problem
from ...foundation.durations import minutes
from ...runs.speed import Speed, latest_speed
from .order import Order
from .pipeline import Pipeline
from .steps import Existing


@dataclass(frozen=True)
class Plan:
    """The steps of an order, looked at without changing anything."""

    pipeline: Pipeline
    existing: list[Existing]
    speed: Speed | None
    """Of a training of the same network; None where none was measured."""
    unknown: str
    """Why `speed` is None."""

    @classmethod
    def of(cls, pipeline: Pipeline) -> Plan:
        """Look at all steps.

        Raises:
            Problem: a step cannot be done as it is asked for.
        """
        existing = pipeline.look()
        unknown = "no similar training has been measured yet"
        try:
            return cls(pipeline, existing, latest_speed(pipeline.order.experiment), unknown)
        except Problem as problem:
            return cls(pipeline, existing, None, problem.what)

    def steps(self) -> list[dict[str, Any]]:
        """Return a row for each step, as JSON types: name, state, about, seconds."""
        return [
            {
                "name": step.name,
                "state": existing.state,
                "about": existing.about,
                "seconds": self._seconds(existing.work),
            }
            for step, existing in zip(self.pipeline.steps, self.existing, strict=True)
        ]

    def lines(self) -> dict[str, str]:
        """Return the steps and the time as text, by subject."""
        text = {}
        for row in self.steps():
            takes = f" · about {minutes(row['seconds'])}" if row["seconds"] else ""
            text[row["name"]] = f"{row['state']}: {row['about']}{takes}"
        if not any(existing.work for existing in self.existing):
            return {**text, "takes": "nothing: everything exists"}
        if self.seconds is None or self.speed is None:
            return {**text, "takes": f"unknown: {self.unknown}"}
        return {
            **text,
            "takes": f"about {minutes(self.seconds)} with one process, if every network works as fast as "
            f"the diffusion model in {self.speed.run} ({self.speed.images_per_second:.0f} images/s)",
        }

    @property
    def seconds(self) -> float | None:
        """How long all of it takes with one process; None where no speed is known."""
        return self._seconds(sum(existing.work for existing in self.existing))

    def _seconds(self, work: float) -> float | None:
        if self.speed is None:
            return None
        images = self.pipeline.materials.work.training_images(work)
        return images / self.speed.images_per_second


def work_in_training_images(order: Order) -> int | None:
    """Return on how many images the diffusion model is trained with as much work as the order has.

    None where this machine cannot say: it has not the images, or cannot read the store.
    """
    try:
        pipeline = Pipeline(order, dry_run=True)
        work = sum(existing.work for existing in pipeline.look())
        return round(pipeline.materials.work.training_images(work))
    except Problem:
        return None
