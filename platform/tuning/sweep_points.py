"""The points of a sweep as experiments, and what can be known to be wrong with them before anything starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from ...trainers.errors import Problem, UsageProblem
from ..config.experiment import Experiment, with_values
from ..config.parameters import CategoricalParameter, Scalar, Values
from ..config.paths import with_absolute_paths
from ..config.points import in_words
from ..config.space import Level, Space
from ..runs.preflight import CHECKS, OF_A_POINT, Checks, Subject, find_problems
from ..storage import layout
from .trial_records import Point

LEVELS: tuple[Level, ...] = ("train", "sample")
OF_CLASSIFIERS = ("balancing.", "classification.")
"""Sections that decide the accuracy of classifiers."""
POINTS_TRIED = 32
"""With one choice of a parameter, before the choice is refused: others may be what is wrong."""
SAME_LOSS = ("process.progress", "process.sigma_min", "process.sigma_max")
"""Fields of a process that change no validation loss."""


@dataclass(frozen=True)
class SweepPoints:
    """Points of a sweep.

    Args:
        sweep: its name.
        experiment: the base of every trial.
        space: what is searched.
    """

    sweep: str
    experiment: Experiment
    space: Space

    @property
    def has_pretraining(self) -> bool:
        """Whether the space pre-trains; a `pretrained.model` takes the place of that."""
        return self.space.pretrain is not None and self.experiment.pretrained is None

    def experiment_for(self, values: dict[str, Any], origin: str) -> Experiment:
        """Return the experiment of one training; it fine-tunes the shared pre-training, if any."""
        finetune = {}
        if self.has_pretraining:
            assert self.space.pretrain is not None
            images = self.experiment.training.images
            finetune = self.space.pretrain.finetune_values(
                images, layout.pretrain_target(self.sweep)
            )
        return with_absolute_paths(with_values(self.experiment, {**finetune, **values}, origin))

    def experiment_of(self, point: Point) -> Experiment:
        """Return the experiment of a point that the study has handed out.

        Raises:
            UsageProblem: the config no longer allows its values.
        """
        if point.baseline:
            origin = f"baseline {point.baseline}"
            named = {baseline.name: baseline.values() for baseline in self.space.baselines}
            return self.experiment_for(named.get(point.baseline, point.values), origin)
        return self.experiment_for(point.values, f"trial {point.number}")

    def check(self) -> None:
        """Validate choices, seed points and baselines against the config, before anything starts.

        Other points may be refused, too: their trials fail, and the sweep goes on.

        Raises:
            UsageProblem: one of them gives a value that the config refuses, whatever else a point has.
        """
        self._check_comparable()
        self._check_sample_level()
        for point in self.space.seed_points:
            self.experiment_for(point, "seed point")
        for baseline in self.space.baselines:
            self.experiment_for(baseline.values(), f"baseline {baseline.name}")
        for width in self._extreme_widths():
            self.experiment_for(width, "sample level")
        for level in LEVELS:
            for name, choice in self.space.choices(level):
                self._check_choice(level, name, choice)

    def _check_comparable(self) -> None:
        """Raise if trainings would be stopped by validation losses that mean different things."""
        searched = [name for name in self.space.train if name.startswith("process.")]
        other_loss = [name for name in searched if name not in SAME_LOSS]
        if self.experiment.tuning.early_stop and other_loss:
            raise UsageProblem(
                f"tuning.early_stop compares validation losses, and {other_loss[0]} is searched: "
                "losses of different processes are not comparable",
                "leave tuning.early_stop out, or sweep over each process by itself",
            )

    def _check_sample_level(self) -> None:
        """Raise if a parameter of the sample level changes nothing on a finished checkpoint."""
        evaluation = self.experiment.evaluation
        for name in self.space.sample:
            if name.startswith(OF_CLASSIFIERS):
                if not evaluation.trains_classifiers:
                    raise UsageProblem(
                        f"sample: {name} has no effect: no classifier is trained",
                        "add classification to evaluation.metrics",
                    )
            elif not name.startswith("sampling."):
                raise UsageProblem(
                    f"sample: {name} has no effect on a finished checkpoint", "move it to train"
                )

    def _extreme_widths(self) -> list[Values]:
        """Return the narrowest and the widest average of the sample level, as points."""
        parameter = self.space.sample.get("sampling.ema_width")
        if parameter is None:
            return []
        if isinstance(parameter, CategoricalParameter):
            widths = [choice for choice in parameter.choices if choice is not None]
        else:
            widths = [parameter.low, parameter.high]
        return [{"sampling.ema_width": width} for width in widths]

    def _check_choice(self, level: Level, name: str, choice: Scalar) -> None:
        """Raise if no point with this choice is valid, of those that are tried."""
        refusals = []
        for point in islice(self.space.random_points(level, name, choice), POINTS_TRIED):
            try:
                self.experiment_for(point, "search space")
            except UsageProblem as problem:
                refusals.append(problem)
            else:
                return
        raise UsageProblem(f"no point with {name}={choice}: {refusals[0].what}", refusals[0].fix)

    def find_problems(self, subject: Subject, checks: Checks = CHECKS) -> list[Problem]:
        """Return what is known to be wrong with the sweep, its seed points and its baselines.

        Args:
            subject: as `Sweep.subject` returns it.
            checks: of the whole; of the points, those of them that depend on what a point changes.
        """
        problems = find_problems(subject, checks)
        known = {problem.what for problem in problems}
        points = [("seed point", point) for point in self.space.seed_points]
        points += [(f"baseline {one.name}", one.values()) for one in self.space.baselines]
        points += [("sample level", width) for width in self._extreme_widths()]
        for origin, values in points:
            one = replace(subject, experiment=self.experiment_for(values, origin))
            for problem in find_problems(one, tuple(c for c in OF_A_POINT if c in checks)):
                if problem.what not in known:
                    known.add(problem.what)
                    what = f"{origin} ({in_words(values)}): {problem.what}"
                    problems.append(type(problem)(what, problem.fix))
        return problems
