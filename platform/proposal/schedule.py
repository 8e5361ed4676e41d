"""How a budget of time is divided into training, generated images and their evaluation."""

from __future__ import annotations

from dataclasses import dataclass

START_S = 20.0
"""Imports, reading the data, the network's first step, checkpoints: what comes on top of the steps."""
RESERVE = 0.05
"""Share of the budget that is left free."""
IMAGES_SHARE = 0.1
"""Largest share of the budget that goes into generated images."""
PER_CLASS = (8, 10, 16, 20, 30, 40, 60, 100, 200, 500)
"""Images of each class that an evaluation may generate."""
MOST_IMAGES = 50_000
"""Images of all classes together, as the papers have them."""
EVALUATION_S = 25.0
"""Of any evaluation: networks for features and labels, intervals, the page."""
LEAST_SHOWN = 0.1
"""Minutes, or hours, below which a part of the time is not mentioned."""
FEATURES_S = 0.03
"""For each image, generated or real, of whatever size: features, and near copies."""


@dataclass(frozen=True)
class Times:
    """Seconds of a run, by what they go into."""

    training: float
    images: float
    evaluation: float

    @property
    def total(self) -> float:
        """All of it, with the start."""
        return START_S + self.training + self.images + self.evaluation

    def __str__(self) -> str:
        """Such as `about 9 minutes: training 7, images 1, evaluation 1`."""
        hours = self.total >= 120 * 60
        unit, size = ("hours", 3600.0) if hours else ("minutes", 60.0)
        parts = [
            f"{name} {_number(seconds / size)}"
            for name, seconds in (
                ("training", self.training + START_S),
                ("images", self.images),
                ("evaluation", self.evaluation),
            )
            if seconds / size >= LEAST_SHOWN
        ]
        total = _number(self.total / size)
        return (
            f"about {total} {unit.removesuffix('s') if total == '1' else unit}: {', '.join(parts)}"
        )


@dataclass(frozen=True)
class Schedule:
    """What a run does in its time.

    Args:
        images: that the training sees, whole batches.
        batch: images of a step.
        per_class: generated images of each class.
        times: None where no step was measured.
    """

    images: int
    batch: int
    per_class: int
    times: Times | None = None

    @property
    def warmup(self) -> int:
        """Images over which the learning rate rises: a twentieth of the run."""
        return self.images // 20

    @property
    def half_life(self) -> int:
        """Images after which a weight counts half in the average: a tenth of the run."""
        return max(1, self.images // 10)

    @property
    def report_every(self) -> int:
        """Images between two reports: forty in a run."""
        return max(self.batch, self.images // 40)

    @property
    def checkpoint_every(self) -> int:
        """Images between two checkpoints: four in a run."""
        return max(self.batch, self.images // 4)


def divide(
    seconds: float, *, batch: int, step: float, image: float, classes: int, real: int
) -> Schedule:
    """Divide a budget: few generated images first, training with all that is left.

    At least one step is trained and the fewest images are generated, however small the budget is.

    Args:
        seconds: the whole budget.
        batch: images of a step, over all workers.
        step: seconds of it.
        image: seconds in which one image is generated.
        classes: number of classes.
        real: real images that are compared with.
    """
    affordable = IMAGES_SHARE * seconds / (classes * (image + FEATURES_S))
    most = MOST_IMAGES // classes
    per_class = max((n for n in PER_CLASS if n <= affordable and n <= most), default=PER_CLASS[0])
    generated = classes * per_class
    making = generated * image
    evaluating = EVALUATION_S + FEATURES_S * (generated + real)
    left = (1 - RESERVE) * seconds - START_S - making - evaluating
    steps = max(1, int(left / step))
    return Schedule(steps * batch, batch, per_class, Times(steps * step, making, evaluating))


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1 else f"{value:.1g}"
