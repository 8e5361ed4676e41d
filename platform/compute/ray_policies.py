"""When Ray Train 2.60 resizes a training, and after how many failures it gives up.

Its own policies take every number of workers, and count failures from the beginning of the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.config import ScalingConfig as Workers
from ray.train.v2.torch.torch_trainer import TorchTrainer

from ...trainers.data.bucket_files import BucketProblem
from ...trainers.errors import Problem

log = logging.getLogger(__name__)

Progress = Callable[[], object]
"""Returns what changes whenever a training can go on from a later point."""


class SteppedScaling(ElasticScalingPolicy):
    """Counts room in steps above the least number of workers; what is left over stays idle."""

    def __init__(self, workers: Workers, step: int) -> None:
        super().__init__(workers)
        self.step = step

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        possible = int(super()._count_possible_workers(reserved_resources))
        above: int = possible - self.scaling_config.min_workers
        return possible if above < 0 else possible - above % self.step


class FailuresSinceProgress(DefaultFailurePolicy):
    """Gives up after too many failures since the training last got on, and at a problem that no retry mends."""

    def __init__(self, failures: FailureConfig, progress: Progress) -> None:
        super().__init__(failures)
        self.progress = progress
        self.reached = progress()

    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        """See `FailurePolicy`."""
        failures = getattr(training_failed_error, "worker_failures", None) or {}
        for failure in failures.values():
            if isinstance(failure, Problem) and not isinstance(failure, BucketProblem):
                return FailureDecision.RAISE  # a bucket may be back later
        try:
            reached = self.progress()
        except Problem as problem:  # with the store, which workers have to wait for, too
            log.warning("failures are counted as if nothing was saved since the last: %s", problem)
            reached = self.reached
        if reached != self.reached:
            self.reached = reached
            self._worker_group_failures = self._controller_failures = 0
        decision: FailureDecision = super().make_decision(training_failed_error)
        return decision


class Trainer(TorchTrainer):
    """Ray's trainer with these policies; it has no public way to give them.

    Args:
        step: between the numbers of workers that may train.
        progress: see `Progress`.
        **options: of `TorchTrainer`.
    """

    def __init__(self, step: int, progress: Progress, **options: Any) -> None:
        super().__init__(**options)
        self.step, self.progress = step, progress

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        failures, workers = self.run_config.failure_config, self.scaling_config
        assert isinstance(failures, FailureConfig)
        assert isinstance(workers, Workers)
        options["failure_policy"] = FailuresSinceProgress(failures, self.progress)
        if workers.elasticity_enabled:
            options["scaling_policy"] = SteppedScaling(workers, self.step)
        return super()._initialize_and_run_controller(**options)
