"""What a launch will take, in hours and money, from the speed of an earlier run like it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from ..config.experiment import Experiment, ScalingConfig
from ..config.space import Space
from ..foundation.durations import minutes
from ..runs.speed import Speed, measured
from ..tracking.mlflow_runs import TrackingProblem


@dataclass(frozen=True)
class Work:
    """What is to be trained."""

    experiment: Experiment
    trainings: int = 1
    images: int = 0
    """Of all trainings together."""
    at_once: int | None = 1
    """Most trainings at the same time; None: as many as there is room for."""


def of_training(experiment: Experiment) -> Work:
    """One training."""
    return Work(experiment, images=experiment.training.images)


def of_sweep(experiment: Experiment, space: Space) -> Work:
    """All trainings of a sweep, to their ends: early stopping and what is done make it less."""
    trainings = experiment.tuning.trials + len(space.baselines)
    each, once = experiment.training.images, 0
    if space.pretrain is not None and experiment.start is None:
        once = space.pretrain.images_of(each)
    images = once + trainings * (each - once)
    return Work(experiment, trainings, images, experiment.tuning.concurrent)


@dataclass(frozen=True)
class Forecast:
    """What a launch will take."""

    work: Work
    speed: Speed | None
    room: int
    """Workers that the cluster has place for."""
    unknown: str = "no run like this one has been measured yet"
    """Why there is no speed."""

    @property
    def money(self) -> float | None:
        """Of the workers' prices; None where the hours are not known."""
        hours = self._worker_hours
        return None if hours is None else hours * self._scaling.price_per_hour

    def lines(self) -> dict[str, str]:
        """For a person, by subject."""
        scaling, seconds = self._scaling, self._seconds
        at_once = f", {self._at_once} at once" if self.work.trainings > 1 else ""
        said = {"room": f"{self.room} workers{at_once}"}
        if self.room < scaling.workers:
            said["room"] += f"; waits until there are {scaling.workers}"
        if seconds is None or self.speed is None:
            return {**said, "takes": f"not known: {self.unknown}"}
        hours, gpus = self._worker_hours or 0.0, scaling.gpus_per_worker
        kind, each = ("GPU", gpus) if gpus else ("CPU", float(scaling.cpus_per_worker))
        ends = time.strftime("%a %H:%M", time.localtime(time.time() + seconds))
        limit = "" if self.work.trainings == 1 else "at most "
        said["takes"] = (
            f"{limit}{minutes(seconds)} of training, until {ends}; "
            f"{_short(hours * each)} {kind}-hours"
        )
        if scaling.price_per_hour:
            said["costs"] = f"{limit}{self.money:.2f}"
        day = time.strftime("%Y-%m-%d", time.localtime(self.speed.started))
        said["measured"] = (
            f"{self.speed.images_per_second:.0f} images/s in {self.speed.run}, {day}; "
            "evaluation comes on top"
        )
        return said

    @property
    def _scaling(self) -> ScalingConfig:
        return self.work.experiment.scaling

    @property
    def _at_once(self) -> int:
        """Trainings at the same time."""
        fit = max(1, self.room // self._scaling.workers)
        return min(fit, self.work.trainings, self.work.at_once or fit)

    @property
    def _worker_hours(self) -> float | None:
        if self.speed is None:
            return None
        return self.work.images / self.speed.images_per_second * self._scaling.workers / 3600

    @property
    def _seconds(self) -> float | None:
        """Of training, from the first step to the last: rounds of as many as fit."""
        if self.speed is None:
            return None
        rounds = math.ceil(self.work.trainings / self._at_once) / self.work.trainings
        return self.work.images * rounds / self.speed.images_per_second


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.2g}"


def make_forecast(work: Work, room: int) -> Forecast:
    """Look for a measurement, and say why where there is none."""
    try:
        return Forecast(work, measured(work.experiment), room)
    except TrackingProblem as problem:
        return Forecast(work, None, room, problem.what)
