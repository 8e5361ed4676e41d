"""Early stopping, asked by the trainings themselves, which then end in good order.

Ray Tune's own schedulers kill a trial's process; one that holds Ray Train workers would leave
their places taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ...search_spaces.space import Space
from ..experiment import TuningConfig
from .study import Study


class Referee:
    """A Ray actor beside the sweep's driver, with its own view of the study."""

    def __init__(
        self,
        storage: str | Path,
        name: str,
        space: Space,
        tuning: TuningConfig,
        direction: Literal["minimize", "maximize"],
    ) -> None:
        # Validation losses are lower for the better, whatever direction the sweep's metric has.
        self.sign = 1.0 if direction == "minimize" else -1.0
        self.study = Study.open(
            storage,
            name,
            space,
            seed=tuning.seed,
            total=tuning.trials,
            direction=direction,
            early_stop=tuning.early_stop,
        )

    def report(self, number: int, images_seen: int, validation_loss: float) -> bool:
        """Whether that trial should stop now."""
        return self.study.report(number, images_seen, self.sign * validation_loss)
