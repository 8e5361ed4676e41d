"""Forecast the time and costs of a launch from the speed of an earlier, similar run."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from ..config.experiment import Experiment
from ..config.scaling import ScalingConfig
from ..config.space import Space
from ..foundation.durations import minutes
from ..runs.speed import Speed, latest_speed
from ..tracking.errors import TrackingProblem


@dataclass(frozen=True)
class Work:
    """The trainings of a launch."""

    experiment: Experiment
    trainings: int = 1
    images: int = 0
    """Images of all trainings together."""
    at_once: int | None = 1
    """Most trainings at a time; None: as many as fit on the cluster."""
    what: str = "training"
    besides: str = "evaluation comes on top"
    """What the images do not cover."""


def of_training(experiment: Experiment) -> Work:
    """Return the work of one training."""
    return Work(experiment, images=experiment.training.images)


def of_sweep(experiment: Experiment, space: Space) -> Work:
    """Return the work of a whole sweep; early stopping and finished trials will make it less."""
    trainings = experiment.tuning.trials + len(space.baselines)
    each, once = experiment.training.images, 0
    if space.pretrain is not None and experiment.pretrained is None:
        once = space.pretrain.images_of(each)
    images = once + trainings * (each - once)
    return Work(experiment, trainings, images, experiment.tuning.concurrent)


@dataclass(frozen=True)
class Forecast:
    """The time and costs to expect of a launch."""

    work: Work
    speed: Speed | None
    room: int
    """Workers that fit on the cluster."""
    unknown: str = "no similar run has been measured yet"
    """Why `speed` is None."""

    @property
    def money(self) -> float | None:
        """Costs of the workers; None where their hours are not known."""
        hours = self._worker_hours
        return None if hours is None else hours * self._scaling.price_per_hour

    def lines(self) -> dict[str, str]:
        """Return the forecast as text, by subject."""
        scaling, seconds = self._scaling, self._seconds
        at_once = f", {self._at_once} at once" if self.work.trainings > 1 else ""
        text = {"room": f"{self.room} workers{at_once}"}
        if self.room < scaling.workers:
            text["room"] += f"; waits until there are {scaling.workers}"
        if seconds is None or self.speed is None:
            return {**text, "takes": f"unknown: {self.unknown}"}
        hours, gpus = self._worker_hours or 0.0, scaling.gpus_per_worker
        kind, each = ("GPU", gpus) if gpus else ("CPU", float(scaling.cpus_per_worker))
        ends = time.strftime("%a %H:%M", time.localtime(time.time() + seconds))
        limit = "" if self.work.trainings == 1 else "at most "
        text["takes"] = (
            f"{limit}{minutes(seconds)} of {self.work.what}, until {ends}; "
            f"{_short(hours * each)} {kind}-hours"
        )
        if scaling.price_per_hour:
            text["costs"] = f"{limit}{self.money:.2f}"
        day = time.strftime("%Y-%m-%d", time.localtime(self.speed.started))
        text["measured"] = (
            f"{self.speed.images_per_second:.0f} images/s in {self.speed.run}, {day}; "
            f"{self.work.besides}"
        )
        return text

    @property
    def _scaling(self) -> ScalingConfig:
        return self.work.experiment.scaling

    @property
    def _at_once(self) -> int:
        """Trainings at a time."""
        fit = max(1, self.room // self._scaling.workers)
        return min(fit, self.work.trainings, self.work.at_once or fit)

    @property
    def _worker_hours(self) -> float | None:
        if self.speed is None:
            return None
        return self.work.images / self.speed.images_per_second * self._scaling.workers / 3600

    @property
    def _seconds(self) -> float | None:
        """Seconds from the first step to the last, in rounds of as many trainings as fit."""
        if self.speed is None:
            return None
        rounds = math.ceil(self.work.trainings / self._at_once) / self.work.trainings
        return self.work.images * rounds / self.speed.images_per_second


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.2g}"


def make_forecast(work: Work, room: int) -> Forecast:
    """Return a forecast from the latest similar run, or one that says why there is none."""
    try:
        return Forecast(work, latest_speed(work.experiment), room)
    except TrackingProblem as problem:
        return Forecast(work, None, room, problem.what)
