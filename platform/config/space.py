"""A search space: parameters that need a training, and parameters searched on a checkpoint.

    description: one line
    base: {objective: {name: cbdm}}        # set in every training of the space
    train:                                  # parameters that need a training
      objective.tau: {type: float, low: 0.1, high: 5.0, log: true}
      objective.label_set: {type: categorical, choices: [train, sqrt, balanced]}
      objective.label_samples: {type: int, low: 1, high: 4, when: {objective.label_set: balanced}}
    sample:                                 # searched on each finished checkpoint, without training
      sampling.guidance.omega: {type: float, low: 0.0, high: 2.0, step: 0.5}
    seed_points:                            # tried first
      - {objective.tau: 1.0, objective.label_set: train}
    baselines:                              # trained in addition to the search
      - {name: ddpm, set: {objective.name: ddpm}}
    pretrain: {share: 0.5, set: {objective.name: ddpm}}    # trained once; all others fine-tune it

Parameters are named by the dotted keys of the config that they set.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

from pydantic import Field, model_validator

from ...trainers.config import Config
from ...trainers.errors import UsageProblem, did_you_mean
from ..foundation.text import brief
from .errors import nearest_key
from .layers import flatten
from .parameters import (
    CategoricalParameter,
    FloatParameter,
    Parameter,
    Scalar,
    Suggester,
    Values,
    allowed_values,
    is_active,
)
from .points import count, enumerate_points, in_order, is_finite, random_point, suggest

Level = Literal["train", "sample"]


class Baseline(Config):
    """A training to compare with, outside the search."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    set: dict[str, Any]
    """Overrides, by dotted key or nested; they come after the space's `base`."""

    def values(self) -> Values:
        """Return its overrides by dotted key."""
        return flatten(self.set)


class Pretraining(Config):
    """A training done once; all other trainings of the space fine-tune its model.

    N trials cost N times the fine-tuning, not N whole trainings.
    """

    share: float = Field(gt=0, lt=1)
    """Of `training.images`; each trial trains the rest."""
    set: dict[str, Any]
    """Overrides, by dotted key or nested; they come after the space's `base`."""

    def images_of(self, whole: int) -> int:
        """Return the pre-training's share of the images of a whole training."""
        return round(whole * self.share)

    def values(self, images: int) -> Values:
        """Return its overrides by dotted key; a whole training would see `images`."""
        return {**flatten(self.set), "training.images": self.images_of(images)}

    def finetune_values(self, images: int, model: str) -> Values:
        """Return the overrides of every trial, which fine-tunes `model`."""
        return {"pretrained.model": model, "training.images": images - self.images_of(images)}


class Space(Config):
    """A search space without contradictions; `check` compares its keys with those of a config."""

    description: str
    base: dict[str, Any] = Field({})
    train: dict[str, Parameter]
    sample: dict[str, Parameter] = Field({})
    seed_points: list[Values] = Field([])
    baselines: list[Baseline] = Field([])
    pretrain: Pretraining | None = None

    def level(self, level: Level) -> dict[str, Parameter]:
        """Return the parameters of a level, each after those that its `when` names."""
        return in_order(self.train if level == "train" else self.sample)

    def suggest(self, trial: Suggester, level: Level) -> Values:
        """Sample the active parameters of a level, define-by-run."""
        return suggest(self.level(level), trial)

    def choices(self, level: Level) -> Iterator[tuple[str, Scalar]]:
        """Yield each categorical parameter of a level with each of its choices."""
        for name, parameter in self.level(level).items():
            if isinstance(parameter, CategoricalParameter):
                yield from ((name, choice) for choice in parameter.choices)

    def random_points(self, level: Level, name: str, value: Scalar) -> Iterator[Values]:
        """Yield points with this value of one parameter, without end, the same each time."""
        rng = random.Random(0)
        while True:
            yield random_point(self.level(level), name, value, rng)

    def read(self, stored: Mapping[str, Any]) -> Values:
        """Return the values of a trial that Optuna stored, rounded as `suggest` rounds them."""
        values = dict(stored)
        for name, parameter in self.train.items():
            if name in values and isinstance(parameter, FloatParameter):
                values[name] = parameter.round_to_step(values[name])
        return values

    def is_finite(self, level: Level) -> bool:
        """Return whether the points of a level can be counted."""
        return is_finite(self.level(level))

    def size(self, level: Level) -> int | None:
        """Return the number of points of a level, or None where they cannot be counted."""
        return count(self.level(level)) if self.is_finite(level) else None

    def grid(self, level: Level) -> Iterator[Values]:
        """Return an iterator over every point of a finite level.

        Raises:
            ValueError: the level is not finite.
        """
        if not self.is_finite(level):
            raise ValueError(f"the {level} level has no grid: it is not finite")
        return enumerate_points(self.level(level))

    def check(self, known_keys: Iterable[str]) -> None:
        """Check that everything the space sets is a key of the config.

        Args:
            known_keys: all dotted leaf keys that a config can have.

        Raises:
            UsageProblem: naming the first key that is not, and the nearest that is.
        """
        known = list(known_keys)
        named = [("train", name) for name in self.train]
        named += [("sample", name) for name in self.sample]
        named += [("base", name) for name in flatten(self.base)]
        named += [(f"baseline {b.name}", name) for b in self.baselines for name in b.values()]
        named += [
            ("pretrain", name) for name in (flatten(self.pretrain.set) if self.pretrain else ())
        ]
        for where, name in named:
            if not any(name == key or name.startswith(f"{key}.") for key in known):
                near = nearest_key(name, known)
                fix = f"did you mean {near}?" if near else "remove it, or correct its name"
                raise UsageProblem(f"{where}: unknown key {name}", fix)

    @model_validator(mode="after")
    def _is_consistent(self) -> Space:
        # Pydantic wraps ValueError and AssertionError only: a UsageProblem passes through unchanged.
        if not self.train:
            raise UsageProblem("train has no parameters", "search at least one")
        _check_level("train", self.train)
        _check_level("sample", self.sample)
        for name in self.train:
            if name in self.sample:
                raise UsageProblem(f"{name} is in train and in sample", "keep one of the two")
            if name in flatten(self.base):
                raise UsageProblem(f"{name} is in base and in train", "keep one of the two")
        for number, point in enumerate(self.seed_points, 1):
            self._check_seed_point(f"seed point {number}", point)
        names = [baseline.name for baseline in self.baselines]
        for name in names:
            if names.count(name) > 1:
                raise UsageProblem(f"two baselines are named {name}", "rename one")
        return self

    def _check_seed_point(self, where: str, point: Values) -> None:
        values: Values = {}
        for name, parameter in self.level("train").items():
            if not is_active(parameter, values):
                continue
            if name not in point:
                raise UsageProblem(f"{where}: {name} is missing", "give every parameter a value")
            if not parameter.contains(point[name]):
                raise UsageProblem(
                    f"{where}: {name} = {brief(point[name])} is not in the space",
                    f"give one of {allowed_values(parameter)}",
                )
            values[name] = point[name]
        for name in point:
            if name in self.train and name not in values:
                raise UsageProblem(f"{where}: {name} is not active at this point", "remove it")
            if name not in self.train:
                raise UsageProblem(
                    f"{where}: unknown parameter {name}", _nearest_or_remove(name, self.train)
                )


def _check_level(level: Level, parameters: Mapping[str, Parameter]) -> None:
    for name, parameter in parameters.items():
        if error := parameter.validation_error():
            raise UsageProblem(f"{level}: {name}: {error}", "correct the range")
        for other, accepted in parameter.when.items():
            if other not in parameters:
                raise UsageProblem(
                    f"{level}: {name}: when: {other} is not a parameter of {level}",
                    _nearest_or_remove(other, parameters),
                )
            for value in accepted:
                if not parameters[other].contains(value):
                    raise UsageProblem(
                        f"{level}: {name}: when: {other} is never {brief(value)}",
                        f"give one of {allowed_values(parameters[other])}",
                    )
    try:
        TopologicalSorter({name: list(p.when) for name, p in parameters.items()}).prepare()
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise UsageProblem(f"{level}: when goes in a circle: {circle}", "break it") from error


def _nearest_or_remove(name: str, known: Iterable[str]) -> str:
    return did_you_mean(name, known).strip() or "remove it, or correct its name"
